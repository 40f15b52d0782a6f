//! The one expression language: minijinja, compiled once, where a fact that is not there is `unknown`, never false.
//!
//! Facts are handed over as objects that note every look-up that finds nothing. An evaluation that touched an absent
//! fact has no answer, whatever value it came to: `facts.age < 10`, `map(attribute="age")` and `selectattr("on")` alike.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use minijinja::value::{Enumerator, Object, Serde, Value};
use minijinja::{Environment, UndefinedBehavior};

/// Instructions one evaluation may use: far above any real expression, far below a hang.
const FUEL: u64 = 200_000;

static LANGUAGE: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut language = Environment::new();
    language.set_undefined_behavior(UndefinedBehavior::Strict);
    language.set_fuel(Some(FUEL));
    language.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    // A file's content is written as it stands in the runbook, its last line end included.
    if let Ok(syntax) = minijinja::syntax::SyntaxConfig::builder().keep_trailing_newline(true).build() {
        language.set_syntax(syntax);
    }
    language
});

/// An expression or template that does not compile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadExpr {
    /// What is wrong, in the language's words.
    pub message: String,
}

/// What an evaluation came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told: these facts are absent, or the expression met a value it cannot work with.
    Unknown {
        /// Dotted paths of absent facts, without the leading `facts.`.
        missing: Vec<String>,
        /// The language's own words where no fact was missing.
        error: Option<String>,
    },
}

/// A condition that compiles. Its code, some 12 KB, is made when it is first asked: a catalogue holds hundreds, and most
/// programs ask few of them.
pub struct Expr {
    source: String,
    code: OnceLock<Code>,
    roots: BTreeSet<String>,
}

type Code = Result<minijinja::Expression<'static, 'static>, BadExpr>;

impl fmt::Debug for Expr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Expr({:?})", self.source)
    }
}

impl Expr {
    /// Compiles a condition that may speak only of `allowed` names.
    pub fn compile(source: &str, allowed: &[&str]) -> Result<Self, BadExpr> {
        if source.trim().is_empty() {
            return Err(BadExpr { message: "the condition is empty".to_owned() });
        }
        let roots: BTreeSet<String> = code_of(source)?.undeclared_variables(false).into_iter().collect();
        check_names(&roots, allowed)?;
        Ok(Self { source: source.to_owned(), code: OnceLock::new(), roots })
    }

    /// The text it was compiled from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it speaks of `name`.
    pub fn mentions(&self, name: &str) -> bool {
        self.roots.contains(name)
    }

    fn value(&self, scope: &Scope) -> Result<Value, BadExpr> {
        match self.code.get_or_init(|| code_of(&self.source)) {
            Ok(code) => code.eval(scope.root.clone()).map_err(|error| explain(&error)),
            Err(error) => Err(error.clone()),
        }
    }

    /// Evaluates the condition.
    pub fn eval(&self, scope: &Scope) -> Answer {
        scope.forget_misses();
        let result = self.value(scope);
        let missing = scope.take_misses();
        match result {
            _ if !missing.is_empty() => Answer::Unknown { missing, error: None },
            Ok(value) if value.is_true() => Answer::True,
            Ok(_) => Answer::False,
            Err(error) => Answer::Unknown { missing, error: Some(error.message) },
        }
    }

    /// Evaluates to a JSON value, for `with:` parameters that are computed.
    pub fn eval_json(&self, scope: &Scope) -> Result<serde_json::Value, Answer> {
        scope.forget_misses();
        let result = self.value(scope);
        let missing = scope.take_misses();
        if !missing.is_empty() {
            return Err(Answer::Unknown { missing, error: None });
        }
        result
            .map_err(|error| error.message)
            .and_then(|value| serde_json::to_value(&value).map_err(|error| error.to_string()))
            .map_err(|error| Answer::Unknown { missing: Vec::new(), error: Some(error) })
    }
}

fn code_of(source: &str) -> Code {
    LANGUAGE.compile_expression_owned(source.to_owned()).map_err(|error| explain(&error))
}

/// A compiled text template (`say`, an argv element, a file's content).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    source: String,
    paths: BTreeSet<String>,
}

impl Text {
    /// Checks a template that may speak only of `allowed` names.
    pub fn compile(source: &str, allowed: &[&str]) -> Result<Self, BadExpr> {
        let template = LANGUAGE.template_from_str(source).map_err(|error| explain(&error))?;
        check_names(&template.undeclared_variables(false).into_iter().collect(), allowed)?;
        let paths = template.undeclared_variables(true).into_iter().collect();
        Ok(Self { source: source.to_owned(), paths })
    }

    /// The names it speaks of with what it looks up in them, such as `settings.repository`.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().map(String::as_str)
    }

    /// The template itself.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders it; an absent fact is an error that names it.
    pub fn render(&self, scope: &Scope) -> Result<String, BadExpr> {
        scope.forget_misses();
        let rendered = LANGUAGE.render_str(&self.source, scope.root.clone());
        let missing = scope.take_misses();
        if let Some(first) = missing.first() {
            return Err(BadExpr { message: format!("fact `{first}` is not known") });
        }
        rendered.map_err(|error| explain(&error))
    }
}

/// The names an expression sees, with facts watched.
#[derive(Debug, Clone)]
pub struct Scope {
    root: Value,
    misses: Misses,
}

type Misses = Arc<Mutex<BTreeSet<String>>>;

impl Scope {
    /// Builds a scope; every value below `facts` is watched for look-ups that find nothing.
    pub fn new(names: impl IntoIterator<Item = (&'static str, serde_json::Value)>) -> Self {
        let misses = Misses::default();
        let root: BTreeMap<String, Value> = names
            .into_iter()
            .map(|(name, value)| {
                let value = if name == "facts" { watch(&value, "", &misses) } else { Value::from(Serde(value)) };
                (name.to_owned(), value)
            })
            .collect();
        Self { root: Value::from(root), misses }
    }

    fn forget_misses(&self) {
        self.misses.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn take_misses(&self) -> Vec<String> {
        let mut misses = self.misses.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *misses).into_iter().collect()
    }
}

/// An object that remembers which of its members were asked for and not there.
#[derive(Debug)]
struct Watched {
    path: String,
    members: BTreeMap<String, Value>,
    misses: Misses,
}

impl Object for Watched {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        let found = self.members.get(key).cloned();
        if found.is_none() {
            self.misses.lock().unwrap_or_else(PoisonError::into_inner).insert(join(&self.path, key));
        }
        found
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.members.keys().map(|key| Value::from(key.as_str())).collect())
    }
}

fn watch(value: &serde_json::Value, path: &str, misses: &Misses) -> Value {
    match value {
        serde_json::Value::Object(map) => {
            let members =
                map.iter().map(|(key, member)| (key.clone(), watch(member, &join(path, key), misses))).collect();
            Value::from_object(Watched { path: path.to_owned(), members, misses: Arc::clone(misses) })
        }
        serde_json::Value::Array(list) => {
            Value::from(list.iter().map(|item| watch(item, path, misses)).collect::<Vec<Value>>())
        }
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => Value::from(Serde(value)),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn check_names(roots: &BTreeSet<String>, allowed: &[&str]) -> Result<(), BadExpr> {
    match roots
        .iter()
        .find(|name| !allowed.contains(&name.as_str()) && !LANGUAGE.globals().any(|(known, _)| known == *name))
    {
        None => Ok(()),
        Some(name) => Err(BadExpr { message: format!("unknown name `{name}`; known here: {}", allowed.join(", ")) }),
    }
}

fn explain(error: &minijinja::Error) -> BadExpr {
    let message = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    BadExpr { message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn eval(source: &str, facts: serde_json::Value) -> Answer {
        Expr::compile(source, &["facts", "reasons"]).unwrap().eval(&Scope::new([("facts", facts)]))
    }

    fn missing(names: &[&str]) -> Answer {
        Answer::Unknown { missing: names.iter().map(|&name| name.to_owned()).collect(), error: None }
    }

    #[test]
    fn known_facts_answer() {
        assert_eq!(eval("facts.age_hours < 26", json!({"age_hours": 3})), Answer::True);
        assert_eq!(eval("facts.age_hours < 26", json!({"age_hours": 40})), Answer::False);
        assert_eq!(eval("'x' in facts.list", json!({"list": ["x"]})), Answer::True);
        assert_eq!(eval("facts.maybe is none", json!({"maybe": null})), Answer::True);
        assert_eq!(
            eval("facts.p | selectattr('on', 'false') | list | length == 0", json!({"p": [{"on": true}]})),
            Answer::True
        );
    }

    #[test]
    fn an_absent_fact_has_no_answer_whatever_the_expression_makes_of_it() {
        assert_eq!(eval("facts.age < 26", json!({})), missing(&["age"]));
        assert_eq!(eval("facts.age == 26", json!({})), missing(&["age"]));
        assert_eq!(eval("not facts.a.b", json!({"a": {}})), missing(&["a.b"]));
        assert_eq!(
            eval("facts.p | selectattr('off') | list | length == 0", json!({"p": [{"on": 1}]})),
            missing(&["p.off"])
        );
        assert_eq!(eval("facts.a | default(true)", json!({})), missing(&["a"]));
        assert_eq!(eval("facts.a.b.c", json!({})), missing(&["a"]));
    }

    #[test]
    fn a_type_error_is_unknown_with_its_words() {
        assert!(matches!(eval("facts.a | length > 1", json!({"a": 5})), Answer::Unknown { error: Some(_), .. }));
        assert!(matches!(eval("facts.a - 1 > 0", json!({"a": "x"})), Answer::Unknown { error: Some(_), .. }));
    }

    #[test]
    fn a_runaway_expression_ends() {
        let source = "range(100000) | list | length > 0 and (range(99999) | map('upper') | list | length > 0)";
        assert!(matches!(eval(source, json!({})), Answer::Unknown { error: Some(_), .. }));
    }

    #[test]
    fn bad_expressions_are_refused_at_load() {
        assert!(Expr::compile("", &["facts"]).is_err());
        assert!(Expr::compile("facts.", &["facts"]).is_err());
        let wrong = Expr::compile("fact.age < 1", &["facts", "settings"]).unwrap_err();
        assert_eq!(wrong.message, "unknown name `fact`; known here: facts, settings");
    }

    #[test]
    fn text_renders_or_names_what_is_missing() {
        let text = Text::compile("age {{ facts.age }} h", &["facts"]).unwrap();
        assert_eq!(text.render(&Scope::new([("facts", json!({"age": 3}))])).unwrap(), "age 3 h");
        let file = Text::compile("a {{ facts.b }}\n", &["facts"]).unwrap();
        assert_eq!(file.render(&Scope::new([("facts", json!({"b": 1}))])).unwrap(), "a 1\n");
        assert_eq!(text.render(&Scope::new([("facts", json!({}))])).unwrap_err().message, "fact `age` is not known");
    }
}
