//! What a path means: the file that defines it, through `use`, `pub use` and `use ...::*`.

use super::uses::{self, Uses};
use crate::test::tree::{Tree, plain};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use syn::Item;

/// Which file uses which other, and the names it does so by.
pub type Edges = BTreeMap<(usize, usize), BTreeSet<String>>;

/// What a path led to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Module(usize),
    /// Something defined in this module.
    Item {
        module: usize,
        name: String,
    },
}

/// What a name is in a module.
enum Entry {
    Child(usize),
    Defined,
    Import(Vec<String>),
}

struct Names<'a> {
    tree: &'a Tree,
    uses: Vec<Uses>,
    /// By module, what other modules see of it.
    scopes: Vec<HashMap<String, Vec<Entry>>>,
    /// By module, what is imported inside of its functions.
    local: Vec<HashMap<String, Vec<Entry>>>,
    /// The modules that define a `macro_rules!` of a name.
    macros: HashMap<String, Vec<usize>>,
}

/// Who uses whom in a crate.
pub fn edges(tree: &Tree) -> Edges {
    let names = Names::new(tree);
    let mut edges = Edges::new();
    for (module, uses) in names.uses.iter().enumerate() {
        let mut add = |to: &Target, name: Option<&str>| {
            let (to, named) = match to {
                Target::Module(to) => (*to, name.unwrap_or("*")),
                Target::Item { module, name: named } => (*module, named.as_str()),
            };
            let pair = (tree.modules[module].file, tree.modules[to].file);
            if pair.0 != pair.1 {
                edges.entry(pair).or_default().insert(name.unwrap_or(named).to_owned());
            }
        };
        let items = |targets: Vec<Target>| targets.into_iter().filter(|target| matches!(target, Target::Item { .. }));
        for import in &uses.imports {
            // A module is a name on the way; what is used of it counts where that is used.
            items(names.resolve(module, &import.path)).for_each(|target| add(&target, None));
        }
        for glob in &uses.globs {
            for target in names.resolve(module, &glob.path) {
                // What is taken from a module counts where it is named. A glob that brings no name that is, brings
                // traits or what a macro makes.
                let counts = match target {
                    Target::Item { .. } => true,
                    Target::Module(of) => glob.public || !names.names_any(module, of),
                };
                if counts {
                    add(&target, None);
                }
            }
        }
        for path in &uses.paths {
            for target in names.meant(module, path) {
                match target {
                    Target::Item { .. } => add(&target, None),
                    // The macro's parameter names one of its modules, or something in itself.
                    Target::Module(of) if path.open => {
                        add(&target, Some("$"));
                        let children = tree.modules[of].children.values();
                        children.for_each(|child| add(&Target::Module(*child), Some("$")));
                    }
                    Target::Module(_) => {}
                }
            }
        }
    }
    edges
}

impl<'a> Names<'a> {
    fn new(tree: &'a Tree) -> Self {
        let uses: Vec<_> = tree.modules.iter().map(|module| uses::collect(&module.items)).collect();
        let mut names = Self { tree, uses, scopes: Vec::new(), local: Vec::new(), macros: HashMap::new() };
        for (id, module) in tree.modules.iter().enumerate() {
            let mut scope: HashMap<String, Vec<Entry>> = HashMap::new();
            let mut local: HashMap<String, Vec<Entry>> = HashMap::new();
            for (name, child) in &module.children {
                scope.entry(name.clone()).or_default().push(Entry::Child(*child));
            }
            for name in module.items.iter().flat_map(defined) {
                scope.entry(name).or_default().push(Entry::Defined);
            }
            for import in &names.uses[id].imports {
                let scope = if import.local { &mut local } else { &mut scope };
                scope.entry(import.name.clone()).or_default().push(Entry::Import(import.path.clone()));
            }
            for item in &module.items {
                if let Item::Macro(item) = item
                    && let Some(name) = &item.ident
                {
                    names.macros.entry(plain(name)).or_default().push(id);
                }
            }
            names.scopes.push(scope);
            names.local.push(local);
        }
        names
    }

    /// What a path in a module's code means. What the module itself defines or imports by name is counted already.
    fn meant(&self, module: usize, path: &uses::Path) -> Vec<Target> {
        let [first, rest @ ..] = path.segments.as_slice() else { return Vec::new() };
        let by_name = self.scopes[module].contains_key(first) || self.local[module].contains_key(first);
        if rest.is_empty() && by_name && !path.open {
            return Vec::new();
        }
        let found = self.resolve(module, &path.segments);
        // A macro is also seen by what comes after it in the text.
        match self.macros.get(path.segments.last().unwrap_or(first)) {
            Some(homes) if found.is_empty() && path.is_macro => {
                homes.iter().map(|module| Target::Item { module: *module, name: first.clone() }).collect()
            }
            _ => found,
        }
    }

    /// Whether a module's code names something that `of` has and the module itself has not.
    fn names_any(&self, module: usize, of: usize) -> bool {
        self.uses[module].paths.iter().filter_map(|path| path.segments.first()).any(|first| {
            !self.scopes[module].contains_key(first) && !self.look_up(of, first, &mut Vec::new()).is_empty()
        })
    }

    fn resolve(&self, module: usize, path: &[String]) -> Vec<Target> {
        self.follow(module, path, &mut Vec::new())
    }

    /// `seen` holds the names that are being looked up: `use` may go in circles, too.
    fn follow(&self, from: usize, path: &[String], seen: &mut Vec<(usize, String)>) -> Vec<Target> {
        let [first, rest @ ..] = path else { return Vec::new() };
        let mut at = match first.as_str() {
            "crate" => vec![Target::Module(0)],
            "self" => vec![Target::Module(from)],
            "super" => self.tree.modules[from].parent.map(Target::Module).into_iter().collect(),
            name => {
                let mut found = self.look_up(from, name, seen);
                for entry in self.local[from].get(name).into_iter().flatten() {
                    found.extend(self.enter(from, name, entry, seen));
                }
                found
            }
        };
        for name in rest {
            let Some(module) = at.iter().find_map(|target| match target {
                Target::Module(module) => Some(*module),
                Target::Item { .. } => None,
            }) else {
                // The rest is a variant or something associated.
                return at;
            };
            if name == "super" {
                at = self.tree.modules[module].parent.map(Target::Module).into_iter().collect();
                continue;
            }
            at = self.look_up(module, name, seen);
            if at.is_empty() {
                // Made by a macro in there.
                return vec![Target::Item { module, name: name.clone() }];
            }
        }
        at
    }

    fn look_up(&self, module: usize, name: &str, seen: &mut Vec<(usize, String)>) -> Vec<Target> {
        let key = (module, name.to_owned());
        if seen.contains(&key) {
            return Vec::new();
        }
        seen.push(key);
        let mut found = Vec::new();
        match self.scopes[module].get(name) {
            Some(entries) => {
                for entry in entries {
                    for target in self.enter(module, name, entry, seen) {
                        if !found.contains(&target) {
                            found.push(target);
                        }
                    }
                }
            }
            None => {
                for glob in &self.uses[module].globs {
                    for target in self.follow(module, &glob.path, seen) {
                        if let Target::Module(of) = target {
                            found.extend(self.look_up(of, name, seen));
                        }
                    }
                }
            }
        }
        seen.pop();
        found
    }

    fn enter(&self, module: usize, name: &str, entry: &Entry, seen: &mut Vec<(usize, String)>) -> Vec<Target> {
        let here = || Target::Item { module, name: name.to_owned() };
        match entry {
            Entry::Child(child) => vec![Target::Module(*child)],
            Entry::Defined => vec![here()],
            Entry::Import(path) => {
                let found = self.follow(module, path, seen);
                // Of another crate: the name is made here.
                if found.is_empty() { vec![here()] } else { found }
            }
        }
    }
}

/// The names that an item defines.
fn defined(item: &Item) -> Vec<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        Item::Macro(syn::ItemMacro { ident: Some(ident), .. }) => ident,
        Item::ForeignMod(block) => {
            let named = |item: &syn::ForeignItem| match item {
                syn::ForeignItem::Fn(item) => Some(plain(&item.sig.ident)),
                syn::ForeignItem::Static(item) => Some(plain(&item.ident)),
                syn::ForeignItem::Type(item) => Some(plain(&item.ident)),
                _ => None,
            };
            return block.items.iter().filter_map(named).collect();
        }
        _ => return Vec::new(),
    };
    vec![plain(ident)]
}
