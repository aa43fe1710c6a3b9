//! Reading a TOML table key by key: wrong types are reported where they stand, and keys that nobody asked for are
//! reported with the nearest name that somebody did ask for.

use super::source::{At, Lines, Located, Problem, nearest};
use std::cell::RefCell;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The text of a file and what was found wrong in it so far.
pub(super) struct Source<'t> {
    lines: Lines<'t>,
    /// What is wrong.
    pub problems: RefCell<Vec<Problem>>,
}

impl<'t> Source<'t> {
    pub fn new(text: &'t str) -> Self {
        Source { lines: Lines::new(text), problems: RefCell::default() }
    }

    pub fn at(&self, offset: usize) -> At {
        self.lines.at(offset)
    }

    pub fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Reports a value of the wrong type.
    fn wrong_type(&self, what: &str, wanted: &str, v: &Spanned<DeValue<'_>>) {
        let message = format!("{what} must be {wanted}, and is {}", type_name(v.get_ref()));
        self.report(Problem::error(self.at(v.span().start), message));
    }
}

/// A table being read.
pub(super) struct Table<'s, 't> {
    source: &'s Source<'t>,
    name: &'s str,
    table: &'s DeTable<'t>,
    at: At,
    asked: RefCell<Vec<&'static str>>,
}

impl<'s, 't> Table<'s, 't> {
    /// `table`, called `name` in messages, which begins at byte `offset`.
    pub fn new(source: &'s Source<'t>, name: &'s str, table: &'s DeTable<'t>, offset: usize) -> Self {
        Table { source, name, table, at: source.at(offset), asked: RefCell::default() }
    }

    /// Where the table begins.
    pub fn at(&self) -> At {
        self.at
    }

    /// Reports an error at the head of the table.
    pub fn error(&self, message: impl Into<String>) {
        self.source.report(Problem::error(self.at, message));
    }

    /// Reports an error at a place of the table.
    pub fn problem(&self, at: At, message: impl Into<String>) {
        self.source.report(Problem::error(at, message));
    }

    /// The raw value of a key.
    pub fn value(&self, key: &'static str) -> Option<&'s Spanned<DeValue<'t>>> {
        self.asked.borrow_mut().push(key);
        self.table.iter().find(|(k, _)| k.get_ref() == key).map(|(_, v)| v)
    }

    /// Where a key's value stands; the table's head when it is not there.
    pub fn at_of(&self, key: &'static str) -> At {
        self.value(key).map_or(self.at, |v| self.source.at(v.span().start))
    }

    fn what(&self, key: &str) -> String {
        format!("\"{key}\" in {}", self.name)
    }

    /// A text.
    pub fn text(&self, key: &'static str) -> Option<Located<String>> {
        let v = self.value(key)?;
        match v.get_ref().as_str() {
            Some(s) => Some(Located { value: s.to_owned(), at: self.source.at(v.span().start) }),
            None => {
                self.source.wrong_type(&self.what(key), "a string", v);
                None
            }
        }
    }

    /// A text that must be there.
    pub fn required_text(&self, key: &'static str) -> Option<Located<String>> {
        if self.value(key).is_none() {
            self.error(format!("{} lacks \"{key}\"", self.name));
        }
        self.text(key)
    }

    /// A text that `parse` understands.
    pub fn parsed<T>(&self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Located<T>> {
        let text = self.text(key)?;
        self.convert(text, parse)
    }

    /// Converts a located text, reporting what `parse` says of it.
    pub fn convert<T>(&self, text: Located<String>, parse: impl Fn(&str) -> Result<T, String>) -> Option<Located<T>> {
        match parse(&text.value) {
            Ok(value) => Some(Located { value, at: text.at }),
            Err(e) => {
                self.source.report(Problem::error(text.at, e));
                None
            }
        }
    }

    /// One of a few words.
    pub fn word<T: Copy>(&self, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(key)?;
        if let Some((_, t)) = words.iter().find(|(w, _)| *w == text.value) {
            return Some(*t);
        }
        let all: Vec<String> = words.iter().map(|(w, _)| format!("\"{w}\"")).collect();
        let message = format!("{} must be {}, and is \"{}\"", self.what(key), all.join(" or "), text.value);
        let names: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
        let hint = nearest(&text.value, &names).map(|n| format!("did you mean \"{n}\"?"));
        self.source.report(Problem::error(text.at, message).hint(hint));
        None
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &'static str) -> Option<bool> {
        let v = self.value(key)?;
        let flag = v.get_ref().as_bool();
        if flag.is_none() {
            self.source.wrong_type(&self.what(key), "true or false", v);
        }
        flag
    }

    /// A whole number from `min` to `max`.
    pub fn number(&self, key: &'static str, min: i64, max: i64) -> Option<i64> {
        let v = self.value(key)?;
        self.one_number(key, v, min, max)
    }

    fn one_number(&self, key: &str, v: &Spanned<DeValue<'t>>, min: i64, max: i64) -> Option<i64> {
        let Some(n) = v.get_ref().as_integer() else {
            self.source.wrong_type(&self.what(key), "a whole number", v);
            return None;
        };
        match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) if (min..=max).contains(&n) => Some(n),
            _ => {
                let message = format!("{} must be from {min} to {max}, and is {n}", self.what(key));
                self.source.report(Problem::error(self.source.at(v.span().start), message));
                None
            }
        }
    }

    /// A list of whole numbers.
    pub fn numbers(&self, key: &'static str, min: i64, max: i64) -> Option<Vec<i64>> {
        let v = self.value(key)?;
        let Some(list) = v.get_ref().as_array() else {
            self.source.wrong_type(&self.what(key), "a list of whole numbers", v);
            return None;
        };
        Some(list.iter().filter_map(|v| self.one_number(key, v, min, max)).collect())
    }

    /// A list of texts; one text alone stands for a list of it.
    pub fn texts(&self, key: &'static str) -> Option<Vec<Located<String>>> {
        let v = self.value(key)?;
        let one = |v: &Spanned<DeValue<'t>>| {
            let text = v.get_ref().as_str();
            if text.is_none() {
                self.source.wrong_type(&self.what(key), "a list of strings", v);
            }
            text.map(|s| Located { value: s.to_owned(), at: self.source.at(v.span().start) })
        };
        match v.get_ref() {
            DeValue::Array(list) => Some(list.iter().filter_map(one).collect()),
            _ => one(v).map(|t| vec![t]),
        }
    }

    /// A table as a JSON object.
    pub fn json(&self, key: &'static str) -> Option<Located<serde_json::Value>> {
        let v = self.value(key)?;
        if !v.get_ref().is_table() {
            self.source.wrong_type(&self.what(key), "a table", v);
            return None;
        }
        Some(Located { value: to_json(v.get_ref()), at: self.source.at(v.span().start) })
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self) {
        let asked = self.asked.into_inner();
        for (key, _) in self.table.iter().filter(|(k, _)| !asked.contains(&&**k.get_ref())) {
            let key_text: &str = key.get_ref();
            let hint = match nearest(key_text, &asked) {
                Some(n) => format!("did you mean \"{n}\"?"),
                None => {
                    let mut known = asked.clone();
                    known.sort_unstable();
                    known.dedup();
                    format!("known: {}", known.join(", "))
                }
            };
            let message = format!("unknown key \"{key_text}\" in {}", self.name);
            self.source.report(Problem::error(self.source.at(key.span().start), message).hint(hint));
        }
    }
}

/// What a TOML value is called in messages.
fn type_name(v: &DeValue<'_>) -> &'static str {
    match v {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A TOML value as JSON; dates become texts.
pub(super) fn to_json(v: &DeValue<'_>) -> serde_json::Value {
    use serde_json::Value;
    match v {
        DeValue::String(s) => Value::from(s.as_ref()),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Value::from(n),
            Err(_) => Value::from(n.as_str()),
        },
        DeValue::Float(f) => f.as_str().parse::<f64>().map_or(Value::Null, Value::from),
        DeValue::Boolean(b) => Value::from(*b),
        DeValue::Datetime(d) => Value::from(d.to_string()),
        DeValue::Array(a) => a.iter().map(|v| to_json(v.get_ref())).collect(),
        DeValue::Table(t) => {
            Value::Object(t.iter().map(|(k, v)| (k.get_ref().to_string(), to_json(v.get_ref()))).collect())
        }
    }
}
