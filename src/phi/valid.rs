//! Arithmetic that tells an identifier from a number that only looks like one.

/// The decimal digits in `text`, in order.
fn digits(text: &str) -> Vec<u32> {
    text.chars().filter_map(|c| c.to_digit(10)).collect()
}

fn luhn(digits: impl DoubleEndedIterator<Item = u32>) -> bool {
    let sum: u32 = digits
        .rev()
        .enumerate()
        .map(|(i, d)| match (i % 2, d * 2) {
            (0, _) => d,
            (_, twice) if twice > 9 => twice - 9,
            (_, twice) => twice,
        })
        .sum();
    sum.is_multiple_of(10)
}

/// A social security number in groups of 3-2-4 with one kind of separator, from an area and group that are issued.
pub(super) fn ssn(text: &str) -> bool {
    let parts: Vec<&str> = text.split(['-', ' ', '.']).collect();
    let [area, group, serial] = parts.as_slice() else { return false };
    let one_separator = text.as_bytes().get(3) == text.as_bytes().get(6);
    let area_issued = !area.starts_with('9') && *area != "000" && *area != "666";
    one_separator && area_issued && *group != "00" && *serial != "0000" && text != "078-05-1120"
}

/// A North American number: area code and exchange start with 2–9, and neither is a service code.
pub(super) fn phone(text: &str) -> bool {
    let mut number = digits(text);
    if number.len() == 11 && number.first() == Some(&1) {
        number.remove(0);
    }
    let [a, a2, a3, x, x2, x3, ..] = number.as_slice() else { return false };
    number.len() == 10 && *a >= 2 && *x >= 2 && (*a2, *a3) != (1, 1) && (*x2, *x3) != (1, 1)
}

/// A payment card: the issuer's prefix with its length, and the Luhn digit.
pub(super) fn card(text: &str) -> bool {
    let number = digits(text);
    let prefix = |n: usize| number.iter().take(n).fold(0, |sum, d| sum * 10 + d);
    let length = number.len();
    let issued = match (prefix(1), prefix(2)) {
        (4, _) => matches!(length, 13 | 16 | 19),
        (_, 51..=55 | 65) => length == 16,
        (_, 22..=27) => length == 16 && (2221..=2720).contains(&prefix(4)),
        (_, 34 | 37) => length == 15,
        (_, 30 | 36 | 38 | 39) => length == 14,
        (_, 35) => length == 16 && (3528..=3589).contains(&prefix(4)),
        (_, 60 | 64) => length == 16 && (prefix(4) == 6011 || (644..=649).contains(&prefix(3))),
        (_, 62) => (16..=19).contains(&length),
        _ => false,
    };
    issued && luhn(number.into_iter())
}

/// A national provider identifier: ten digits, Luhn over the prefix 80840.
pub(super) fn npi(text: &str) -> bool {
    let number = digits(text);
    number.len() == 10 && luhn([8, 0, 8, 4, 0].into_iter().chain(number))
}

/// A DEA registration: the last digit is (d1 + d3 + d5) + 2 (d2 + d4 + d6), modulo ten.
pub(super) fn dea(text: &str) -> bool {
    let number = digits(text);
    let Some((check, body)) = number.split_last() else { return false };
    let sum: u32 = body.iter().zip([1, 2].into_iter().cycle()).map(|(digit, weight)| digit * weight).sum();
    body.len() == 6 && sum % 10 == *check
}

/// A vehicle identification number: 17 characters, check digit in the ninth place.
pub(super) fn vin(text: &str) -> bool {
    const WEIGHTS: [u32; 17] = [8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2];
    let value = |c: char| match c {
        '0'..='9' => c.to_digit(10),
        'A' | 'J' => Some(1),
        'B' | 'K' | 'S' => Some(2),
        'C' | 'L' | 'T' => Some(3),
        'D' | 'M' | 'U' => Some(4),
        'E' | 'N' | 'V' => Some(5),
        'F' | 'W' => Some(6),
        'G' | 'P' | 'X' => Some(7),
        'H' | 'Y' => Some(8),
        'R' | 'Z' => Some(9),
        _ => None,
    };
    let sum: Option<u32> = text.chars().zip(WEIGHTS).map(|(c, weight)| Some(value(c)? * weight)).sum();
    let check = text.chars().nth(8).map(|c| if c == 'X' { Some(10) } else { c.to_digit(10) });
    text.len() == 17 && text.bytes().any(|b| b.is_ascii_alphabetic()) && sum.map(|sum| sum % 11) == check.flatten()
}

/// An IPv4 address that is routed on the internet, and so may be a patient's.
pub(super) fn public_ip(text: &str) -> bool {
    let Ok(ip) = text.parse::<std::net::Ipv4Addr>() else { return false };
    let shared = matches!(ip.octets(), [100, 64..=127, ..]);
    let nobody = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_broadcast();
    !nobody && !shared && !ip.is_documentation() && !matches!(ip.octets(), [0 | 240..=255, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_numbers_pass_and_their_neighbours_do_not() {
        for (check, good, bad) in [
            (ssn as fn(&str) -> bool, "123-45-6789", "666-45-6789"),
            (ssn, "123 45 6789", "123-45 6789"),
            (ssn, "001-01-0001", "078-05-1120"),
            (ssn, "899-01-0001", "900-01-0001"),
            (phone, "+1 (217) 555-0142", "(117) 555-0142"),
            (phone, "2175550142", "217-155-0142"),
            (card, "4111 1111 1111 1111", "4111 1111 1111 1112"),
            (card, "378282246310005", "1782822463100050"),
            (npi, "1234567893", "1234567890"),
            (dea, "AB1234563", "AB1234564"),
            (vin, "1M8GDM9AXKP042788", "1M8GDM9A1KP042788"),
            (public_ip, "68.154.184.138", "172.16.2.91"),
            (public_ip, "8.8.8.8", "100.64.0.1"),
        ] {
            assert!(check(good), "{good}");
            assert!(!check(bad), "{bad}");
        }
    }
}
