//! The modules of a crate and the files they are in, from its root file on.

use super::source;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use syn::{Expr, ExprLit, Item, Lit, Meta};

/// A module: the crate's root, a file or a `mod name { ... }` in one.
pub struct Module {
    /// The file it is in, as an index.
    pub file: usize,
    /// The module that declares it; the root has none.
    pub parent: Option<usize>,
    /// The modules it declares, by name.
    pub children: HashMap<String, usize>,
    /// What is in it. The contents of its children are in these and not here.
    pub items: Vec<Item>,
}

/// A crate without what only tests compile.
pub struct Tree {
    /// Its files.
    pub files: Vec<PathBuf>,
    /// Its modules; the first is the root.
    pub modules: Vec<Module>,
}

/// Reads a crate.
///
/// # Errors
/// When a file cannot be read or is not Rust.
pub fn load(root: &Path) -> Result<Tree> {
    let mut tree = Tree { files: Vec::new(), modules: Vec::new() };
    let folder = root.parent().context("the root file of a crate lies in a folder")?;
    tree.add_file(root, folder, None)?;
    Ok(tree)
}

impl Tree {
    /// Reads a file whose children lie in `folder`.
    fn add_file(&mut self, path: &Path, folder: &Path, parent: Option<usize>) -> Result<usize> {
        let path = fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))?;
        let items = source::parse(&path)?.items;
        self.files.push(path);
        let file = self.files.len() - 1;
        self.add(items, file, folder, parent)
    }

    fn add(&mut self, items: Vec<Item>, file: usize, folder: &Path, parent: Option<usize>) -> Result<usize> {
        let id = self.modules.len();
        self.modules.push(Module { file, parent, children: HashMap::new(), items: Vec::new() });
        let mut own = Vec::new();
        for item in items {
            let Item::Mod(module) = item else {
                own.push(item);
                continue;
            };
            let name = plain(&module.ident);
            let child = match (module.content, path_attribute(&module.attrs)) {
                (Some((_, items)), _) => self.add(items, file, &folder.join(&name), Some(id))?,
                // From the file's own folder; such a file's children lie beside it, as a mod.rs's do.
                (None, Some(path)) => {
                    let path = self.files[file].parent().unwrap_or(folder).join(path);
                    let beside = path.parent().unwrap_or(folder).to_path_buf();
                    self.add_file(&path, &beside, Some(id))?
                }
                (None, None) => {
                    let below = folder.join(&name);
                    let in_folder = below.join("mod.rs");
                    let path = if in_folder.exists() { in_folder } else { folder.join(format!("{name}.rs")) };
                    self.add_file(&path, &below, Some(id))?
                }
            };
            self.modules[id].children.insert(name, child);
        }
        self.modules[id].items = own;
        Ok(id)
    }
}

/// A name as paths write it, whether or not it is written raw.
pub fn plain(ident: &proc_macro2::Ident) -> String {
    let name = ident.to_string();
    name.strip_prefix("r#").map_or(name.clone(), str::to_owned)
}

/// What `#[path = "..."]` says.
fn path_attribute(attributes: &[syn::Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    })
}
