//! Variables from a file, and keeping their values out of what programs say.

/// Shorter values are ordinary words and numbers, found in any sentence.
const SHORTEST: usize = 3;

/// The `NAME=value` lines of a file, as systemd's `EnvironmentFile` has them (`systemd.exec(5)`): the value may stand in
/// quotes; anything else is a comment.
pub fn env_file_variables(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (name, value) = line.trim().split_once('=')?;
        let name = name.trim_end();
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let starts = name.bytes().next().is_some_and(|first| !first.is_ascii_digit());
        // A value with a NUL cannot be handed to any program.
        (plain && starts && !value.contains('\0')).then(|| (name.to_owned(), unquoted(value.trim()).to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

fn unquoted(value: &str) -> &str {
    let within = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    within('"').or_else(|| within('\'')).unwrap_or(value)
}

/// Values that must not be seen.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Secrets({})", self.0.len())
    }
}

impl Secrets {
    /// These values, and the password inside each that is an address (`scheme://user:password@host`).
    ///
    /// Values shorter than three bytes are not kept: as words they would be found in any sentence.
    pub fn new(values: impl IntoIterator<Item = String>) -> Self {
        let mut secrets: Vec<String> = Vec::new();
        for value in values {
            secrets.extend(password(&value).map(str::to_owned));
            secrets.push(value);
        }
        secrets.retain(|secret| secret.len() >= SHORTEST);
        // The longest first, so that no part of one is left over.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self(secrets)
    }

    /// The text with `***` for each of them.
    pub fn hide(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
    }
}

fn password(address: &str) -> Option<&str> {
    let (_, rest) = address.split_once("://")?;
    let authority = rest.split('/').next()?;
    authority.rsplit_once('@')?.0.split_once(':').map(|(_, password)| password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_variables_is_read() {
        let text = "# keys\nA=1\n export B=2\nC_3=\"two words\"\nD='x=y'\n9=no\n=no\nnothing\nE=\nF=\"\n";
        let read = env_file_variables(text);
        let read: Vec<(&str, &str)> = read.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(read, [("A", "1"), ("C_3", "two words"), ("D", "x=y"), ("E", ""), ("F", "\"")]);
    }

    #[test]
    fn secrets_and_passwords_in_addresses_are_hidden() {
        let secrets = Secrets::new(["rest:https://user:hunter2@host/".to_owned(), "hunter".to_owned(), "a".to_owned()]);
        let said = "cannot open rest:https://user:hunter2@host/: user with hunter2 refused, also hunter; a word";
        assert_eq!(secrets.hide(said), "cannot open ***: user with *** refused, also ***; a word");
        assert_eq!(format!("{secrets:?}"), "Secrets(3)");
    }
}
