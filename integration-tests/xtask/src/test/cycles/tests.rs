//! Crates with circles made on purpose, and crates that only look as if they had one.

use super::*;
use std::fs;

/// The circles of a crate of these files, as sets of file names.
fn circles(files: &[(&str, &str)]) -> Vec<(Vec<String>, String)> {
    let folder = tempfile::tempdir().expect("folder");
    let root = fs::canonicalize(folder.path()).expect("folder");
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
        fs::write(path, text).expect("written");
    }
    let shown = |path: &PathBuf| path.strip_prefix(&root).expect("below the root").display().to_string();
    let found = of_crate(&root.join("lib.rs")).expect("a crate");
    found.into_iter().map(|(circle, text)| (circle.iter().map(shown).collect(), text)).collect()
}

/// Whether `a.rs` and `b.rs` with these texts, at the root, use each other.
fn tied(a: &str, b: &str) -> bool {
    let found = circles(&[("lib.rs", "mod a; mod b; mod c;"), ("a.rs", a), ("b.rs", b), ("c.rs", "pub struct C;")]);
    let both = |(circle, _): &(Vec<String>, String)| *circle == ["a.rs", "b.rs"];
    assert!(found.iter().all(both), "{found:?}");
    !found.is_empty()
}

const USES_A: &str = "use crate::a::A; pub struct B; pub fn b() {} pub mod inner { pub fn deep() {} }";

#[test]
fn every_way_to_write_a_use_closes_a_circle() {
    for text in [
        "use crate::b::B;",
        "use super::b::B;",
        "use super::b::B as Other;",
        "use crate::{c::C, b::{inner::deep, B}};",
        "use crate::b; fn f() { b::b() }",
        "use super::{b::{self}}; fn f(x: b::B) {}",
        "use crate::b as other; fn f() { other::b() }",
        "use super::b::*; fn f(x: B) {}",
        "use crate::b::*; fn f(x: u8) { x.method_of_a_trait() }",
        "use crate::b::B as _;",
        "use crate as root; fn f() { root::b::b() }",
        "use crate::b as other; use other::inner as deeper; fn f() { deeper::deep() }",
        "pub use crate::b::B;",
        "pub use crate::b::*;",
        "fn f() { use crate::b::b; b() }",
        "fn f() { use crate::b; b::b() }",
        "fn f() { crate::b::b() }",
        "fn f() { super::b::inner::deep() }",
        "fn f(x: &[Option<crate::b::B>]) {}",
        "impl From<crate::b::B> for A { fn from(_: crate::b::B) -> A { A } }",
        "fn f(x: u8) { match x { crate::b::LIMIT => {} _ => {} } }",
        "fn f() { println!(\"{}\", crate::b::b()) }",
        "fn f() { assert!(x.iter().all(|y| y == super::b::b())) }",
        "macro_rules! m { () => { $crate::b::b() } }",
        "macro_rules! m { () => { use crate::b::{B, b}; } }",
        "macro_rules! m { ($f:ident) => { crate::b::$f() } }",
        "macro_rules! m { ($m:ident) => { crate::$m::b() } }",
        "mod inner { fn f() { super::super::b::b() } }",
        "mod inner { use crate::b::B; }",
        "#[arg(value_parser = crate::b::b)] struct S;",
        "use self::inner::x; mod inner { pub use crate::b::b as x; }",
        "#[cfg(not(test))] use crate::b::B;",
        "#[cfg(unix)] fn f() { crate::b::b() }",
    ] {
        assert!(tied(&format!("pub struct A; {text}"), USES_A), "{text}");
    }
}

#[test]
fn what_is_no_use_closes_none() {
    for text in [
        "use crate::c::C;",
        "use b::B;",
        "use ::b::B;",
        "fn f() { ::b::b() }",
        "use crate::b;",
        "fn f(b: C) { b.inner.deep() }",
        "fn f() { println!(\"crate::b::b\") }",
        "// crate::b::b()\n/// [`crate::b::B`]\nfn f() {}",
        "#[cfg(test)] mod tests { use crate::b::B; }",
        "#[cfg(test)] use crate::b::B;",
        "#[cfg(all(test, unix))] fn f() { crate::b::b() }",
        "fn f() { #[cfg(test)] crate::b::b(); }",
        "#[test] fn f() { crate::b::b() }",
        "pub(in crate::b) fn f() {}",
        "macro_rules! m { ($m:ident) => { $m::b() } }",
    ] {
        assert!(!tied(&format!("pub struct A; {text}"), USES_A), "{text}");
    }
}

#[test]
fn a_name_is_followed_to_the_file_that_defines_it() {
    let files = [
        ("lib.rs", "mod user; mod front;"),
        ("front/mod.rs", "mod maker; pub use maker::Thing; pub use self::maker as other;"),
        ("front/maker.rs", "pub struct Thing; fn f() { crate::user::use_it() }"),
        ("user.rs", "use crate::front::Thing; pub fn use_it() {}"),
    ];
    let found = circles(&files);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, ["user.rs", "front/maker.rs"]);
    assert!(found[0].1.contains("user.rs uses Thing of ") && found[0].1.contains("maker.rs uses use_it of "));
    // The front only hands on: whoever asks it for a name is not tied to it.
    let text = "use super::front::other::Thing; pub fn use_it() {}";
    let files: Vec<_> = files.iter().map(|(name, old)| (*name, if *name == "user.rs" { text } else { *old })).collect();
    assert_eq!(circles(&files).len(), 1);
}

#[test]
fn a_parent_and_a_child_that_use_each_other_are_a_circle_and_a_declaration_is_none() {
    let child = ("parent/child.rs", "use super::Base; pub fn grow(base: Base) {}");
    let declares = ("parent.rs", "pub mod child; pub struct Base;");
    assert!(circles(&[("lib.rs", "mod parent;"), declares, child]).is_empty());
    for parent in
        ["mod child; pub struct Base; fn f() { child::grow(Base) }", "mod child; pub use child::grow; pub struct Base;"]
    {
        let found = circles(&[("lib.rs", "mod parent;"), ("parent.rs", parent), child]);
        assert_eq!(found.len(), 1, "{parent}");
        assert_eq!(found[0].0, ["parent.rs", "parent/child.rs"]);
    }
}

#[test]
fn macros_tie_who_calls_them_to_who_wrote_them() {
    let files = |a| [("lib.rs", "#[macro_use] mod a; mod b;"), ("a.rs", a), ("b.rs", "pub fn b() { make!(1) }")];
    assert_eq!(circles(&files("macro_rules! make { ($x:expr) => { crate::b::b() } }")).len(), 1);
    assert!(circles(&files("macro_rules! make { ($x:expr) => { $x } }")).is_empty());
    let handed_on = "macro_rules! make { () => {} } pub(crate) use make; fn f() { crate::b::b() }";
    let b = ("b.rs", "use crate::a::make; pub fn b() { make!() }");
    assert_eq!(circles(&[("lib.rs", "mod a; mod b;"), ("a.rs", handed_on), b]).len(), 1);
}

#[test]
fn modules_are_found_where_cargo_finds_them() {
    let found = circles(&[
        ("lib.rs", "mod one; #[path = \"elsewhere/two.rs\"] mod two; mod inline { pub mod three; }"),
        ("one/mod.rs", "pub mod inner;"),
        ("one/inner.rs", "pub fn f() { crate::two::beside::f() }"),
        ("elsewhere/two.rs", "pub mod beside;"),
        ("elsewhere/beside.rs", "pub fn f() { crate::inline::three::f() }"),
        ("inline/three.rs", "pub fn f() { crate::one::inner::f() }"),
    ]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, ["one/inner.rs", "elsewhere/beside.rs", "inline/three.rs"]);
}

#[test]
fn circles_among_names_end() {
    let a = "pub use crate::b::x; pub use crate::b::*; pub struct A;";
    assert!(tied(a, "pub use crate::a::x; pub use crate::a::*; pub fn f() { y() }"));
}

#[test]
fn the_workspace_has_crates_to_look_at() {
    let roots = roots().expect("cargo metadata");
    assert!(roots.iter().any(|root| root.ends_with("launcher/src/lib.rs")), "{roots:?}");
    assert!(roots.iter().any(|root| root.ends_with("xtask/src/main.rs")), "{roots:?}");
}
