//! What a module says of others: `use` declarations, paths in its code, and paths in what macros are given.
//!
//! The arguments of a macro, and the bodies of macros, are tokens that nobody has parsed: there, whatever is written
//! as a path is taken for one. `$crate` is the crate's root; a path that ends in a parameter of the macro is *open*.

use crate::test::tree::plain;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Item, UseTree};

/// A name that a `use` brings.
pub struct Import {
    /// What it is called here.
    pub name: String,
    /// Where it is from.
    pub path: Vec<String>,
    /// Whether it is inside a function, where no other module can see it.
    pub local: bool,
}

/// A `use path::*`.
pub struct Glob {
    /// What everything is from.
    pub path: Vec<String>,
    /// Whether it is handed on.
    pub public: bool,
}

/// A path in the code.
pub struct Path {
    /// Its segments, without arguments.
    pub segments: Vec<String>,
    /// A macro's parameters finish it.
    pub open: bool,
    /// It is a macro that is called.
    pub is_macro: bool,
}

/// What a module says of others.
#[derive(Default)]
pub struct Uses {
    /// Names from `use`.
    pub imports: Vec<Import>,
    /// All names from somewhere.
    pub globs: Vec<Glob>,
    /// Paths in the code.
    pub paths: Vec<Path>,
    depth: usize,
}

/// Collects from a module's own items.
pub fn collect(items: &[Item]) -> Uses {
    let mut uses = Uses::default();
    for item in items {
        uses.visit_item(item);
    }
    uses
}

impl Uses {
    fn tree(&mut self, tree: &UseTree, above: &[String], public: bool) {
        let with = |name: String| above.iter().cloned().chain([name]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.tree(&path.tree, &with(plain(&path.ident)), public),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, above, public)),
            UseTree::Glob(_) => self.globs.push(Glob { path: above.to_vec(), public }),
            UseTree::Name(name) => self.import(with(plain(&name.ident)), None),
            UseTree::Rename(rename) => self.import(with(plain(&rename.ident)), Some(plain(&rename.rename))),
        }
    }

    fn import(&mut self, mut path: Vec<String>, renamed: Option<String>) {
        // `use a::{self}` is `use a`.
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let Some(name) = renamed.or_else(|| path.last().cloned()) else { return };
        self.imports.push(Import { name, path, local: self.depth > 0 });
    }
}

impl<'ast> Visit<'ast> for Uses {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if item.leading_colon.is_none() {
            self.tree(&item.tree, &[], !matches!(item.vis, syn::Visibility::Inherited));
        }
    }

    fn visit_block(&mut self, block: &'ast syn::Block) {
        self.depth += 1;
        visit::visit_block(self, block);
        self.depth -= 1;
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let segments = path.segments.iter().map(|segment| plain(&segment.ident)).collect();
            self.paths.push(Path { segments, open: false, is_macro: false });
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if call.path.leading_colon.is_none() {
            let segments = call.path.segments.iter().map(|segment| plain(&segment.ident)).collect();
            self.paths.push(Path { segments, open: false, is_macro: true });
        }
        scan(call.tokens.clone(), &[], &mut self.paths);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            scan(list.tokens.clone(), &[], &mut self.paths);
        }
    }

    // `pub(in path)` uses nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

/// Adds what is written as a path in tokens; `above` are the segments in front of a `::{...}`.
fn scan(tokens: TokenStream, above: &[String], found: &mut Vec<Path>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is = |at: usize, c: char| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == c);
    let joined = |at: usize| is(at, ':') && is(at + 1, ':');
    let mut at = 0;
    while at < tokens.len() {
        let begin = at;
        at += 1;
        if let TokenTree::Group(group) = &tokens[begin] {
            scan(group.stream(), &[], found);
            continue;
        }
        let parameter = is(begin, '$');
        let Some(TokenTree::Ident(first)) = tokens.get(begin + usize::from(parameter)) else { continue };
        at = begin + usize::from(parameter) + 1;
        let mut segments = above.to_vec();
        segments.push(plain(first));
        let mut open = false;
        let mut group = None;
        while joined(at) {
            match tokens.get(at + 2) {
                Some(TokenTree::Ident(next)) if !open => {
                    segments.push(plain(next));
                    at += 3;
                }
                Some(TokenTree::Ident(_)) => at += 3,
                Some(TokenTree::Punct(punct)) if punct.as_char() == '$' => {
                    open = true;
                    at += 4;
                }
                Some(TokenTree::Group(inner)) if inner.delimiter() == Delimiter::Brace => {
                    group = Some(inner.stream());
                    at += 3;
                }
                _ => break,
            }
        }
        // A field, a method, a lifetime, or what follows `::` of something else, or of a crate.
        let dotted = begin > 0 && is(begin - 1, '.') && !(begin > 1 && is(begin - 2, '.'));
        let follows = begin > 0 && (is(begin - 1, '\'') || is(begin - 1, ':') && begin > 1 && is(begin - 2, ':'));
        if dotted || follows || parameter && first != "crate" {
            continue;
        }
        match group {
            Some(group) => scan(group, &segments, found),
            None => found.push(Path { segments, open, is_macro: is(at, '!') && !is(at + 1, '=') }),
        }
    }
}
