//! One file to a [`Draft`]: the text is walked by hand rather than deserialised, so that every refusal can name the
//! line, the whole key, the value as it was written, and what is allowed.

use crate::draft::{Draft, Located};
use crate::error::ProfileError;
use crate::profile::{Matcher, Source, Variable};
use crate::schema;
use crate::{kernel, pattern, place};
use greenboost_contract::settings::{BACKING_NAMES, GRANULE, MOST_UPLOAD_THREADS};
use greenboost_contract::{Assist, PageCache, PlanFor, ReportFree, ReportTotal, Spill, Stream, parse_size};
use regex::bytes::Regex;
use std::collections::BTreeMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(crate) type Result<T> = std::result::Result<T, ProfileError>;
pub(crate) type Value<'a> = Spanned<DeValue<'a>>;

/// Reads `text`, the content of `source`.
pub fn read(source: Source, text: &str) -> Result<Draft> {
    let file = match &source {
        Source::BuiltIn(name) => format!("profiles/{name}"),
        Source::File(path) => path.display().to_string(),
    };
    let reader = Reader { file, text };
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        reader.refuse(at, format!("this is not valid TOML: {}", error.message()))
    })?;
    let top = Table { reader: &reader, path: "", table: document.get_ref() };
    top.only(schema::TOP)?;

    let name = top.text("name")?.ok_or_else(|| reader.refuse(0, "name is missing: add name = \"...\"".to_owned()))?;
    let processes = top.table("processes", schema::PROCESSES)?;
    let memory = top.table("memory", schema::MEMORY)?;
    let report = top.table("report", schema::REPORT)?;
    Ok(Draft {
        name,
        description: top.text("description")?.map(|text| text.value),
        inherits: top.text("inherits")?,
        priority: top.integer("priority")?,
        matchers: top.matchers()?,
        include: processes.pattern("include")?,
        exclude: processes.pattern("exclude")?,
        threshold: memory.size("threshold", |bytes| bytes >= GRANULE, "must be at least 2MiB")?,
        chunk: memory.size(
            "chunk",
            |bytes| bytes > 0 && bytes % GRANULE == 0,
            "must be a multiple of 2MiB, such as 64MiB",
        )?,
        vram_reserve: memory.size("vram_reserve", |_| true, "")?,
        backings: memory.backings()?,
        spill: memory.one_of("spill", Spill::from_name, Spill::NAMES)?,
        stream: memory.one_of("stream", Stream::from_name, Stream::NAMES)?,
        ring: memory.size("ring", |bytes| bytes >= GRANULE, "must be at least 2MiB")?,
        assist: memory.one_of("assist", Assist::from_name, Assist::NAMES)?,
        page_cache: memory.one_of("page_cache", PageCache::from_name, PageCache::NAMES)?,
        upload_threads: memory.count("upload_threads", MOST_UPLOAD_THREADS)?,
        free: report.one_of("free", ReportFree::from_name, ReportFree::NAMES)?,
        total: report.one_of("total", ReportTotal::from_name, ReportTotal::NAMES)?,
        place: place::read(&top)?,
        kernels: kernel::read(&top)?,
        plan: top.one_of("plan", PlanFor::from_name, PlanFor::NAMES)?,
        environment: top.environment()?,
        source,
    })
}

pub(crate) struct Reader<'a> {
    file: String,
    text: &'a str,
}

impl Reader<'_> {
    pub(crate) fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|byte| *byte == b'\n').count()
    }

    pub(crate) fn refuse(&self, at: usize, problem: String) -> ProfileError {
        ProfileError::Refused { file: self.file.clone(), line: self.line(at), problem }
    }
}

/// A table and the path that leads to it, for messages.
#[derive(Clone, Copy)]
pub(crate) struct Table<'a> {
    pub(crate) reader: &'a Reader<'a>,
    pub(crate) path: &'a str,
    pub(crate) table: &'a DeTable<'a>,
}

/// What a table that is not in the file reads as.
static EMPTY: std::sync::LazyLock<DeTable<'static>> = std::sync::LazyLock::new(DeTable::new);

impl<'a> Table<'a> {
    fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value<'a>> {
        self.table.get(key)
    }

    /// A refusal of `key = value`: the value is shown as written, cut to its first line.
    pub(crate) fn refuse(&self, key: &str, value: &Value<'_>, problem: &str) -> ProfileError {
        let written = self.reader.text.get(value.span()).unwrap_or_default();
        let mut lines = written.lines();
        let first = lines.next().unwrap_or_default();
        let more = if lines.next().is_some() { " ..." } else { "" };
        self.reader.refuse(value.span().start, format!("{} = {first}{more}: {problem}", self.key(key)))
    }

    /// Refuses keys that are not `allowed`.
    pub(crate) fn only(&self, allowed: &[&str]) -> Result<()> {
        let unknown = self.table.iter().find(|(key, _)| !allowed.contains(&key.get_ref().as_ref()));
        let Some((key, _)) = unknown else { return Ok(()) };
        let place =
            if self.path.is_empty() { "at the top of a profile".to_owned() } else { format!("in [{}]", self.path) };
        let problem =
            format!("{} is not a known key: allowed {place} are {}", self.key(key.get_ref()), allowed.join(", "));
        Err(self.reader.refuse(key.span().start, problem))
    }

    fn table(&self, key: &'a str, allowed: &[&str]) -> Result<Table<'a>> {
        let table = match self.get(key) {
            None => &*EMPTY,
            Some(value) => value.get_ref().as_table().ok_or_else(|| {
                self.refuse(key, value, &format!("must be a table: write [{key}] on a line of its own"))
            })?,
        };
        let table = Table { path: key, table, ..*self };
        if !allowed.is_empty() {
            table.only(allowed)?;
        }
        Ok(table)
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<Located<String>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = value.get_ref().as_str().ok_or_else(|| self.refuse(key, value, "must be text in quotes"))?;
        if text.trim().is_empty() || text.contains(char::is_control) {
            return Err(self.refuse(key, value, "must be one line of text that is not empty"));
        }
        Ok(Some(Located { value: text.to_owned(), line: self.reader.line(value.span().start) }))
    }

    /// One regular expression.
    pub(crate) fn expression(&self, key: &str) -> Result<Option<Located<String>>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        if let (Err(reason), Some(value)) = (pattern::compile(&text.value), self.get(key)) {
            return Err(self.refuse(key, value, &format!("is not a regular expression: {reason}")));
        }
        Ok(Some(text))
    }

    /// Rules, each a table `[[key]]` of its own, in the file's order. `rule` also gets where its table begins.
    pub(crate) fn rules<T>(
        &self,
        key: &'static str,
        allowed: &[&str],
        rule: impl Fn(&Table<'_>, usize) -> Result<T>,
    ) -> Result<Vec<T>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let hint = format!("must be tables: write [[{key}]] on a line of its own before each rule");
        let values = value.get_ref().as_array().ok_or_else(|| self.refuse(key, value, &hint))?;
        let tables = values.iter().map(|value| {
            let table = value.get_ref().as_table().ok_or_else(|| self.refuse(key, value, &hint))?;
            let table = Table { path: key, table, ..*self };
            table.only(allowed)?;
            rule(&table, value.span().start)
        });
        tables.collect()
    }

    fn flag(&self, key: &str) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(false) };
        value.get_ref().as_bool().ok_or_else(|| self.refuse(key, value, "must be true or false"))
    }

    fn integer(&self, key: &str) -> Result<Option<i64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.get_ref().as_integer().and_then(|int| i64::from_str_radix(int.as_str(), int.radix()).ok());
        number
            .map(Some)
            .ok_or_else(|| self.refuse(key, value, "must be a whole number, such as 20 (higher is tried first)"))
    }

    /// A number from 0 on.
    fn count(&self, key: &str, most: u32) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.get_ref().as_integer().and_then(|int| u32::from_str_radix(int.as_str(), int.radix()).ok());
        let number = number.filter(|number| *number <= most);
        number.map(Some).ok_or_else(|| self.refuse(key, value, &format!("must be a whole number from 0 to {most}")))
    }

    pub(crate) fn one_of<T>(
        &self,
        key: &str,
        from_name: impl Fn(&str) -> Option<T>,
        names: &[&str],
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let named = value.get_ref().as_str().and_then(from_name);
        named.map(Some).ok_or_else(|| self.refuse(key, value, &format!("allowed are {}", names.join(", "))))
    }

    pub(crate) fn size(&self, key: &str, sensible: impl Fn(u64) -> bool, hint: &str) -> Result<Option<u64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Some(text) = value.get_ref().as_str() else {
            return Err(self.refuse(key, value, "must be a size in quotes, such as \"512MiB\""));
        };
        let bytes = parse_size(text).map_err(|error| self.refuse(key, value, &error.to_string()))?;
        if sensible(bytes) { Ok(Some(bytes)) } else { Err(self.refuse(key, value, hint)) }
    }

    /// Text, or an array of text.
    fn texts(&self, key: &str, kind: &str) -> Result<Option<Vec<(&'a Value<'a>, &'a str)>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let single = std::slice::from_ref(value);
        let values = value.get_ref().as_array().map_or(single, |array| &**array);
        let texts: Option<Vec<_>> =
            values.iter().map(|value| value.get_ref().as_str().map(|text| (value, text))).collect();
        match texts {
            Some(texts) if !texts.is_empty() => Ok(Some(texts)),
            _ => Err(self.refuse(key, value, &format!("must be {kind}, or a list of them"))),
        }
    }

    /// One pattern out of one or several, each checked by itself so that the refusal points at the right line.
    fn pattern(&self, key: &str) -> Result<Option<String>> {
        let Some(patterns) = self.texts(key, "a regular expression in quotes")? else { return Ok(None) };
        for (value, pattern) in &patterns {
            if pattern.is_empty() || pattern.contains(char::is_control) {
                return Err(self.refuse(key, value, "must be a regular expression on one line"));
            }
            pattern::compile(pattern)
                .map_err(|reason| self.refuse(key, value, &format!("is not a regular expression: {reason}")))?;
        }
        let patterns: Vec<_> = patterns.into_iter().map(|(_, pattern)| pattern).collect();
        Ok(Some(pattern::any_of(&patterns)))
    }

    fn regex(&self, key: &str) -> Result<Option<Regex>> {
        let Some(pattern) = self.pattern(key)? else { return Ok(None) };
        pattern::compile(&pattern).map(Some).map_err(|reason| {
            let at = self.get(key).map_or(0, |value| value.span().start);
            self.reader.refuse(at, format!("{}: {reason}", self.key(key)))
        })
    }

    /// `[match]`, or several `[[match]]`.
    fn matchers(&self) -> Result<Option<Vec<Matcher>>> {
        let Some(value) = self.get("match") else { return Ok(None) };
        let single = std::slice::from_ref(value);
        let values = value.get_ref().as_array().map_or(single, |array| &**array);
        let mut matchers = Vec::new();
        for value in values {
            let Some(table) = value.get_ref().as_table() else {
                return Err(self.refuse(
                    "match",
                    value,
                    "must be a table: write [match] or [[match]] on a line of its own",
                ));
            };
            let table = Table { path: "match", table, ..*self };
            table.only(schema::MATCH)?;
            let matcher = Matcher { executable: table.regex("executable")?, arguments: table.regex("arguments")? };
            if matcher.executable.is_none() && matcher.arguments.is_none() {
                let problem = format!("[match] is empty: give it one or more of {}", schema::MATCH.join(", "));
                return Err(self.reader.refuse(value.span().start, problem));
            }
            matchers.push(matcher);
        }
        Ok(Some(matchers))
    }

    fn backings(&self) -> Result<Option<Vec<String>>> {
        let Some(names) = self.texts("backings", "the name of a backing in quotes")? else { return Ok(None) };
        let mut seen = Vec::new();
        for (value, name) in names {
            if !BACKING_NAMES.contains(&name) {
                return Err(self.refuse("backings", value, &format!("allowed are {}", BACKING_NAMES.join(", "))));
            }
            if seen.iter().any(|known| known == name) {
                return Err(self.refuse("backings", value, "is named twice"));
            }
            seen.push(name.to_owned());
        }
        Ok(Some(seen))
    }

    fn environment(&self) -> Result<BTreeMap<String, Option<Variable>>> {
        let table = self.table("environment", &[])?;
        let mut variables = BTreeMap::new();
        for (key, value) in table.table {
            let name = key.get_ref().as_ref();
            check_variable_name(&table, name, value)?;
            variables.insert(name.to_owned(), table.variable(name, value)?);
        }
        Ok(variables)
    }

    fn variable(&self, name: &str, value: &Value<'_>) -> Result<Option<Variable>> {
        let hint = "must be text in quotes, false (do not set what the parent sets), or { value = \"...\", unless = [\"--option\"] }";
        if value.get_ref().as_bool() == Some(false) {
            return Ok(None);
        }
        let (text, unless, unless_planned) = match value.get_ref() {
            DeValue::String(text) => (text.to_string(), Vec::new(), false),
            DeValue::Table(table) => {
                let path = format!("environment.{name}");
                let inner = Table { path: &path, table, reader: self.reader };
                inner.only(schema::VARIABLE)?;
                let text = inner.get("value").and_then(|value| value.get_ref().as_str());
                let text = text.ok_or_else(|| self.refuse(name, value, hint))?.to_owned();
                let unless = inner.texts("unless", "an option of the program in quotes")?.unwrap_or_default();
                let planned = inner.flag("unless_planned")?;
                (text, unless.into_iter().map(|(_, option)| option.to_owned()).collect(), planned)
            }
            _ => return Err(self.refuse(name, value, hint)),
        };
        if text.contains('\0') {
            return Err(self.refuse(name, value, "must not contain a zero byte"));
        }
        Ok(Some(Variable { value: text, unless, unless_planned }))
    }
}

fn check_variable_name(table: &Table<'_>, name: &str, value: &Value<'_>) -> Result<()> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if name.is_empty() || !plain || name.as_bytes()[0].is_ascii_digit() {
        return Err(table.refuse(name, value, "is not the name of a variable: allowed are letters, digits and _"));
    }
    if let Some(prefix) = schema::RESERVED_VARIABLES.iter().find(|prefix| name.starts_with(**prefix)) {
        return Err(table.refuse(
            name,
            value,
            &format!("variables that begin with {prefix} are set by gb-launch alone"),
        ));
    }
    Ok(())
}
