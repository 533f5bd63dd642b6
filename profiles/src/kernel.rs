//! `[[kernel]]`: how kernels read weights that are outside VRAM.

use crate::pattern;
use crate::read::{Result, Table, Value};
use crate::schema;
use greenboost_contract::kernel::{KernelRule, Read};

/// The rules of a file, in its order.
pub fn read(top: &Table<'_>) -> Result<Vec<KernelRule>> {
    let Some(value) = top.get("kernel") else { return Ok(Vec::new()) };
    let hint = "must be tables: write [[kernel]] on a line of its own before each rule";
    let values = value.get_ref().as_array().ok_or_else(|| top.refuse("kernel", value, hint))?;
    values.iter().map(|value| rule(top, value, hint)).collect()
}

fn rule(top: &Table<'_>, value: &Value<'_>, hint: &str) -> Result<KernelRule> {
    let table = value.get_ref().as_table().ok_or_else(|| top.refuse("kernel", value, hint))?;
    let table = Table { path: "kernel", table, ..*top };
    table.only(schema::KERNEL)?;
    let missing = |problem: &str| top.reader.refuse(value.span().start, problem.to_owned());
    let Some(name) = pattern_of(&table, "name")? else {
        return Err(missing(
            "kernel.name is missing: give [[kernel]] a regular expression on kernel names, such as name = 'get_rows'",
        ));
    };
    let Some(read) = table.one_of("read", Read::from_name, Read::NAMES)? else {
        return Err(missing("kernel.read is missing: say how it reads, \"stream\", \"in-place\" or \"never\""));
    };
    Ok(KernelRule { name, tensor: pattern_of(&table, "tensor")?.unwrap_or_default(), read })
}

fn pattern_of(table: &Table<'_>, key: &str) -> Result<Option<String>> {
    let Some(text) = table.text(key)? else { return Ok(None) };
    if let (Err(reason), Some(value)) = (pattern::compile(&text.value), table.get(key)) {
        return Err(table.refuse(key, value, &format!("is not a regular expression: {reason}")));
    }
    Ok(Some(text.value))
}
