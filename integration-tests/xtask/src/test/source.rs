//! Rust source as a check reads it: parsed, and without what is compiled for tests alone.

use anyhow::{Context, Result};
use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use std::fs;
use std::path::Path;
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, File, Meta, Token};

/// Parses a file; what only tests compile is left out. Empty where that is all of it.
///
/// # Errors
/// When the file cannot be read or is not Rust; with its name.
pub fn parse(path: &Path) -> Result<File> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut file = syn::parse_file(&text).map_err(|error| {
        let at = error.span().start();
        anyhow::anyhow!("{}:{}:{}: {error}", path.display(), at.line, at.column + 1)
    })?;
    if file.attrs.iter().any(is_test) {
        file.items.clear();
    }
    Pruning.visit_file_mut(&mut file);
    Ok(file)
}

struct Pruning;

impl VisitMut for Pruning {
    fn visit_file_mut(&mut self, file: &mut File) {
        file.items.retain(is_product);
        visit_mut::visit_file_mut(self, file);
    }

    fn visit_item_mod_mut(&mut self, module: &mut syn::ItemMod) {
        if let Some((_, items)) = &mut module.content {
            items.retain(is_product);
        }
        visit_mut::visit_item_mod_mut(self, module);
    }

    fn visit_item_impl_mut(&mut self, block: &mut syn::ItemImpl) {
        block.items.retain(is_product);
        visit_mut::visit_item_impl_mut(self, block);
    }

    fn visit_item_trait_mut(&mut self, item: &mut syn::ItemTrait) {
        item.items.retain(is_product);
        visit_mut::visit_item_trait_mut(self, item);
    }

    fn visit_fields_named_mut(&mut self, fields: &mut syn::FieldsNamed) {
        let kept = std::mem::take(&mut fields.named).into_iter().filter(is_product);
        fields.named = kept.collect();
        visit_mut::visit_fields_named_mut(self, fields);
    }

    fn visit_block_mut(&mut self, block: &mut syn::Block) {
        block.stmts.retain(is_product);
        visit_mut::visit_block_mut(self, block);
    }

    fn visit_expr_match_mut(&mut self, expression: &mut syn::ExprMatch) {
        expression.arms.retain(is_product);
        visit_mut::visit_expr_match_mut(self, expression);
    }
}

/// Whether more than tests compile it, by the attributes it begins with.
fn is_product(node: &impl ToTokens) -> bool {
    let tokens = node.to_token_stream();
    let begins = matches!(tokens.clone().into_iter().next(), Some(TokenTree::Punct(punct)) if punct.as_char() == '#');
    if !begins {
        return true;
    }
    let attributes = (|input: syn::parse::ParseStream<'_>| {
        let attributes = input.call(Attribute::parse_outer)?;
        input.parse::<TokenStream>()?;
        Ok(attributes)
    })
    .parse2(tokens);
    !attributes.is_ok_and(|attributes| attributes.iter().any(is_test))
}

fn is_test(attribute: &Attribute) -> bool {
    attribute.path().is_ident("test")
        || attribute.path().is_ident("cfg") && attribute.parse_args::<Meta>().is_ok_and(|meta| needs_test(&meta))
}

/// Whether a condition can only hold in a test.
fn needs_test(meta: &Meta) -> bool {
    match meta {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) => {
            let parts = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap_or_default();
            if list.path.is_ident("all") {
                parts.iter().any(needs_test)
            } else {
                list.path.is_ident("any") && !parts.is_empty() && parts.iter().all(needs_test)
            }
        }
        Meta::NameValue(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_tests_compile_is_left_out_and_nothing_else() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.rs");
        let text = "
            #[cfg(test)] mod tests { fn gone() {} }
            /// Documented.
            #[cfg(all(test, unix))] fn gone() {}
            #[cfg(any(test, feature = \"x\"))] fn kept_1() {}
            #[cfg(not(test))] fn kept_2() { #[cfg(test)] gone(); kept_3(); match 1 { #[cfg(test)] 1 => gone(), _ => {} } }
            struct Kept { #[cfg(test)] gone: u8, kept_4: u8 }
            impl Kept { #[cfg(test)] fn gone() {} fn kept_5() { #[cfg(test)] let gone = 1; } }
        ";
        fs::write(&path, text).expect("written");
        let tokens = parse(&path).expect("parsed").to_token_stream().to_string();
        assert!(!tokens.contains("gone"), "{tokens}");
        assert!((1..=5).all(|number| tokens.contains(&format!("kept_{number}"))), "{tokens}");
        fs::write(&path, "#![cfg(test)]\nfn gone() {}").expect("written");
        assert!(parse(&path).expect("parsed").items.is_empty());
    }

    #[test]
    fn a_file_that_is_no_rust_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.rs");
        fs::write(&path, "fn a() {}\nfn {}").expect("written");
        let error = parse(&path).err().expect("no Rust").to_string();
        assert!(error.contains("a.rs:2:4"), "{error}");
    }
}
