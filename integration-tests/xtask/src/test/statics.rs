//! The hook's state has one owner, so statics that hold state are few.
//!
//! A static holds state where its type names something that changes (an atomic, a lock, a cell, a value that is made
//! once), itself or in a field of one of the hook's own types, or where it is `mut`. Each static of a `thread_local!`
//! counts. Tables that a macro writes, one row a static, do not: they are data with a cache.

use super::ceilings::{Check, Finding};
use super::scripts::collect;
use super::tree;
use crate::workspace;
use anyhow::{Result, ensure};
use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::ToTokens;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use syn::parse::Parser;
use syn::visit::{self, Visit};

/// Statics with state below `hook`.
pub const CHECK: Check = Check { name: "statics", unit: "statics with state", find };

/// Types of the standard library that change through a shared reference; and all whose name begins with `Atomic`.
const CHANGING: &[&str] = &[
    "Mutex",
    "RwLock",
    "Condvar",
    "Once",
    "OnceLock",
    "OnceCell",
    "LazyLock",
    "LazyCell",
    "Cell",
    "RefCell",
    "UnsafeCell",
    "SyncUnsafeCell",
];

/// Of every library and program below `hook`. What its tests have is not the hook's.
fn find(root: &Path) -> Result<Vec<Finding>> {
    let mut crates = Vec::new();
    collect(&root.join("hook"), &mut |path| {
        if path.ends_with("src/lib.rs") || path.ends_with("src/main.rs") {
            crates.push(path.to_path_buf());
        }
    })?;
    ensure!(!crates.is_empty(), "no crate is below hook");
    let mut seen = Seen::default();
    for path in &crates {
        let tree = tree::load(path)?;
        for module in &tree.modules {
            seen.file = workspace::shown(&tree.files[module.file]);
            module.items.iter().for_each(|item| seen.visit_item(item));
        }
    }
    match seen.errors.pop() {
        Some(error) => Err(error),
        None => Ok(seen.findings()),
    }
}

/// What the hook's files declare.
#[derive(Default)]
struct Seen {
    file: String,
    statics: Vec<Static>,
    /// By the name of a type, all names that its fields' types are made of.
    types: HashMap<String, HashSet<String>>,
    errors: Vec<anyhow::Error>,
}

struct Static {
    file: String,
    line: usize,
    name: String,
    type_: String,
    /// All names that its type is made of.
    parts: HashSet<String>,
    /// Whatever its type.
    is_state: bool,
}

impl Seen {
    fn findings(&self) -> Vec<Finding> {
        let stateful = self.stateful();
        let holds = |kept: &&Static| {
            kept.is_state || kept.parts.iter().any(|part| changes(part) || stateful.contains(part.as_str()))
        };
        let mut findings: Vec<_> = self
            .statics
            .iter()
            .filter(holds)
            .map(|kept| Finding {
                path: kept.file.clone(),
                text: format!("{}:{}: static {}: {}", kept.file, kept.line, kept.name, kept.type_),
            })
            .collect();
        findings.sort();
        findings
    }

    /// The hook's own types with something that changes in them, through fields of fields.
    fn stateful(&self) -> HashSet<&str> {
        let mut stateful = HashSet::new();
        loop {
            let before = stateful.len();
            for (name, parts) in &self.types {
                if parts.iter().any(|part| changes(part) || stateful.contains(part.as_str())) {
                    stateful.insert(name.as_str());
                }
            }
            if stateful.len() == before {
                return stateful;
            }
        }
    }

    fn keep(&mut self, name: &Ident, tokens: TokenStream, is_state: bool) {
        let mut parts = HashSet::new();
        names(tokens.clone(), &mut parts);
        self.statics.push(Static {
            file: self.file.clone(),
            line: name.span().start().line,
            name: name.to_string(),
            type_: shown(&tokens),
            parts,
            is_state,
        });
    }

    /// Statics with a name of their own in what a macro is given.
    fn written_in(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let is = |at: usize, c: char| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == c);
        let word = |at: usize, name: &str| matches!(tokens.get(at), Some(TokenTree::Ident(ident)) if ident == name);
        for (at, token) in tokens.iter().enumerate() {
            if let TokenTree::Group(group) = token {
                self.written_in(group.stream());
            }
            if !word(at, "static") || at > 0 && is(at - 1, '\'') {
                continue;
            }
            let is_mut = word(at + 1, "mut");
            let name = at + 1 + usize::from(is_mut);
            if let Some(TokenTree::Ident(ident)) = tokens.get(name)
                && is(name + 1, ':')
            {
                let ends =
                    |token: &&TokenTree| matches!(token, TokenTree::Punct(punct) if "=;".contains(punct.as_char()));
                let type_ = tokens[name + 2..].iter().take_while(|token| !ends(token)).cloned().collect();
                self.keep(ident, type_, is_mut);
            }
        }
    }

    fn type_of(&mut self, name: &Ident, fields: &impl ToTokens) {
        names(fields.to_token_stream(), self.types.entry(name.to_string()).or_default());
    }
}

impl<'ast> Visit<'ast> for Seen {
    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.keep(&item.ident, item.ty.to_token_stream(), matches!(item.mutability, syn::StaticMutability::Mut(_)));
        visit::visit_item_static(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        item.fields.iter().for_each(|field| self.type_of(&item.ident, &field.ty));
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        item.variants.iter().flat_map(|variant| &variant.fields).for_each(|field| self.type_of(&item.ident, &field.ty));
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.type_of(&item.ident, &item.ty);
    }

    // A name that stands for another one: `use std::sync::Mutex as Lock`.
    fn visit_use_rename(&mut self, renamed: &'ast syn::UseRename) {
        self.type_of(&renamed.rename, &renamed.ident);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if call.path.is_ident("macro_rules") {
            return;
        }
        if call.path.segments.last().is_some_and(|last| last.ident == "thread_local") {
            match thread_locals.parse2(call.tokens.clone()) {
                Ok(statics) => statics.iter().for_each(|(name, type_)| self.keep(name, type_.to_token_stream(), true)),
                Err(error) => self.errors.push(anyhow::anyhow!("{}: thread_local!: {error}", self.file)),
            }
        } else {
            self.written_in(call.tokens.clone());
        }
    }
}

/// The statics of a `thread_local!`; each holds state, as it is another one on every thread.
fn thread_locals(input: syn::parse::ParseStream<'_>) -> syn::Result<Vec<(Ident, syn::Type)>> {
    let mut statics = Vec::new();
    while !input.is_empty() {
        input.call(syn::Attribute::parse_outer)?;
        input.parse::<syn::Visibility>()?;
        input.parse::<syn::Token![static]>()?;
        let name = input.parse()?;
        input.parse::<syn::Token![:]>()?;
        let type_ = input.parse()?;
        input.parse::<syn::Token![=]>()?;
        if input.peek(syn::Token![const]) && input.peek2(syn::token::Brace) {
            input.parse::<syn::Token![const]>()?;
            input.parse::<syn::Block>()?;
        } else {
            input.parse::<syn::Expr>()?;
        }
        input.parse::<Option<syn::Token![;]>>()?;
        statics.push((name, type_));
    }
    Ok(statics)
}

fn changes(name: &str) -> bool {
    name.starts_with("Atomic") || CHANGING.contains(&name)
}

/// Tokens as a person writes a type.
fn shown(tokens: &TokenStream) -> String {
    let mut text = tokens.to_string();
    for mark in ["::", "<", ">", ",", ";", "&", "(", ")"] {
        text = text.replace(&format!(" {mark}"), mark);
        if !matches!(mark, "," | ";" | ">") {
            text = text.replace(&format!("{mark} "), mark);
        }
    }
    text
}

/// All names in tokens.
fn names(tokens: TokenStream, found: &mut HashSet<String>) {
    for token in tokens {
        match token {
            TokenTree::Ident(name) => {
                found.insert(name.to_string());
            }
            TokenTree::Group(group) => names(group.stream(), found),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The names of the statics with state in a hook whose one file has this text.
    fn found(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().expect("folder");
        for (name, text) in [
            ("hook/part/src/lib.rs", "mod a; #[cfg(test)] mod b;"),
            ("hook/part/src/a.rs", text),
            ("hook/part/src/b.rs", "static TESTED: AtomicU64 = ZERO;"),
            ("hook/part/tests/c.rs", "static TESTED: AtomicU64 = ZERO;"),
        ] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
            fs::write(path, text).expect("written");
        }
        let findings = find(folder.path()).expect("Rust");
        let name = |finding: Finding| {
            let (_, rest) = finding.text.split_once("static ").expect("a static");
            rest.split_once(':').expect("a type").0.to_owned()
        };
        findings.into_iter().map(name).collect()
    }

    #[test]
    fn every_kind_of_state_is_counted() {
        for text in [
            "static X: AtomicU64 = AtomicU64::new(0);",
            "static X: std::sync::Mutex<Vec<u8>> = Mutex::new(Vec::new());",
            "static X: [RwLock<u8>; 4] = [ONE; 4];",
            "static X: OnceLock<Plan> = OnceLock::new();",
            "static X: Once = Once::new();",
            "static mut X: u8 = 0;",
            "pub(crate) static X: LazyLock<Regex> = LazyLock::new(make);",
            "mod inner { fn f() { static X: AtomicBool = AtomicBool::new(false); } }",
            "struct Inner { count: AtomicU64 } struct Outer(Option<Inner>); static X: Outer = Outer(None);",
            "enum Outer { Some(Cell<u8>), None } static X: Outer = Outer::None;",
            "use std::sync::Mutex as Lock; static X: Lock<u8> = Lock::new(0);",
            "per_device! { static X: Mutex<u8> = Mutex::new(0); }",
            "fn f() { with!({ static mut X: u8 = 0; }) }",
            "type Counts = [AtomicU64; 4]; static X: Counts = make();",
        ] {
            assert_eq!(found(text), ["X"], "{text}");
        }
    }

    #[test]
    fn each_static_of_a_thread_is_counted() {
        let text = "thread_local! {
            /// Documented.
            static A: Cell<u8> = const { Cell::new(0) };
            pub static B: RefCell<Vec<u8>> = RefCell::new(Vec::new());
        }";
        assert_eq!(found(text), ["A", "B"]);
    }

    #[test]
    fn tables_constants_and_tests_are_not() {
        for text in [
            "static X: &[(&str, u8)] = &[];",
            "const X: AtomicU64 = AtomicU64::new(0);",
            "macro_rules! rows { ($name:ident) => { static $name: AtomicPtr<u8> = NULL; } }",
            "rows! { static $name: AtomicU64 = ZERO; }",
            "f!(x as &'static AtomicU64); rows! { static X: &str = TEXT; }",
            "#[cfg(test)] static X: AtomicU64 = AtomicU64::new(0);",
            "#[cfg(test)] mod tests { static X: AtomicU64 = AtomicU64::new(0); }",
            "struct Plain { name: &'static str } static X: Plain = Plain { name: \"AtomicU64\" };",
            "extern \"C\" { static X: AtomicU64; }",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_thread_local_that_is_not_understood_is_an_error() {
        let folder = tempfile::tempdir().expect("folder");
        fs::create_dir_all(folder.path().join("hook/src")).expect("folder");
        fs::write(folder.path().join("hook/src/lib.rs"), "thread_local! { nonsense }").expect("written");
        let error = find(folder.path()).expect_err("nonsense").to_string();
        assert!(error.contains("thread_local!"), "{error}");
    }
}
