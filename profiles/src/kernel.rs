//! `[[kernel]]`: how kernels read weights that are outside VRAM.

use crate::read::{Result, Table};
use crate::schema;
use greenboost_contract::kernel::{KernelRule, Read};

/// The rules of a file, in its order.
pub fn read(top: &Table<'_>) -> Result<Vec<KernelRule>> {
    top.rules("kernel", schema::KERNEL, rule)
}

fn rule(table: &Table<'_>, at: usize) -> Result<KernelRule> {
    let missing = |problem: &str| table.reader.refuse(at, problem.to_owned());
    let Some(name) = table.expression("name")? else {
        return Err(missing(
            "kernel.name is missing: give [[kernel]] a regular expression on kernel names, such as name = 'get_rows'",
        ));
    };
    let Some(read) = table.one_of("read", Read::from_name, Read::NAMES)? else {
        return Err(missing("kernel.read is missing: say how it reads, \"stream\", \"in-place\" or \"never\""));
    };
    let tensor = table.expression("tensor")?.map(|tensor| tensor.value).unwrap_or_default();
    Ok(KernelRule { name: name.value, tensor, read })
}
