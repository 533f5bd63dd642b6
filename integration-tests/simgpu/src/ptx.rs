//! As much of PTX as a loader needs: the kernels a module declares, their parameters, and its global variables.

use crate::errors::{Error, Result};

/// A kernel's declaration.
#[derive(Debug, PartialEq, Eq)]
pub struct EntryPoint {
    /// Its name.
    pub name: String,
    /// Offset and size of each parameter.
    pub parameters: Vec<(usize, usize)>,
}

/// A variable in global memory.
#[derive(Debug, PartialEq, Eq)]
pub struct Global {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: usize,
}

/// A module's declarations.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Kernels.
    pub entries: Vec<EntryPoint>,
    /// Variables.
    pub globals: Vec<Global>,
}

fn without_comments(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(slash) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        clean.push_str(&rest[..slash]);
        let end = if rest[slash..].starts_with("//") { "\n" } else { "*/" };
        rest = rest[slash + 2..].find(end).map_or("", |at| &rest[slash + 2 + at + (end.len() - 1)..]);
        // The last character of the terminator stays, so that words do not grow together.
        if end == "*/" {
            rest = rest.strip_prefix('/').unwrap_or(rest);
            clean.push(' ');
        }
    }
    clean.push_str(rest);
    clean
}

fn type_size(word: &str) -> Option<usize> {
    let digits = word.strip_prefix('.')?.strip_prefix(['u', 's', 'b', 'f'])?;
    match digits {
        "8" => Some(1),
        "16" => Some(2),
        "32" => Some(4),
        "64" => Some(8),
        _ => None,
    }
}

/// Reads `.align 8 .b8 name[16]`: name, alignment, size.
fn variable(declaration: &str) -> Option<(String, usize, usize)> {
    let declaration = declaration.split('=').next()?.replace('[', " [").replace("[ ", "[");
    let words: Vec<&str> = declaration.split_whitespace().collect();
    let size = words.iter().find_map(|word| type_size(word))?;
    let align = words.windows(2).find(|pair| pair[0] == ".align").and_then(|pair| pair[1].parse().ok());
    // An alignment behind `.ptr` is that of the memory pointed at.
    let align = if words.contains(&".ptr") { None } else { align };
    let name = words.iter().rev().find(|word| !word.starts_with(['.', '[']) && word.parse::<usize>().is_err())?;
    let count = words.iter().find_map(|word| word.strip_prefix('[')?.strip_suffix(']')?.trim().parse::<usize>().ok());
    Some(((*name).to_string(), align.unwrap_or(size).max(size), size * count.unwrap_or(1)))
}

fn parameters(list: &str) -> Option<Vec<(usize, usize)>> {
    let mut next = 0usize;
    let declarations = list.split(',').map(str::trim).filter(|declaration| !declaration.is_empty());
    declarations
        .map(|declaration| {
            let (_, align, size) = variable(declaration.strip_prefix(".param")?)?;
            let offset = next.next_multiple_of(align);
            next = offset + size;
            Some((offset, size))
        })
        .collect()
}

/// Reads a module.
pub fn parse(text: &str) -> Result<Program> {
    let text = without_comments(text);
    if !text.contains(".version") || !text.contains(".target") {
        return Err(Error::INVALID_PTX);
    }
    let mut program = Program::default();
    // Statements at module scope end with a semicolon or are followed by a body.
    let mut depth = 0usize;
    let mut statement = String::new();
    for character in text.chars() {
        match character {
            '{' => {
                if depth == 0 && !statement.contains('=') {
                    entry(&statement, &mut program)?;
                    statement.clear();
                }
                depth += 1;
            }
            '}' => depth = depth.checked_sub(1).ok_or(Error::INVALID_PTX)?,
            ';' if depth == 0 => {
                global(&statement, &mut program);
                statement.clear();
            }
            _ if depth == 0 => statement.push(character),
            _ => {}
        }
    }
    if depth == 0 { Ok(program) } else { Err(Error::INVALID_PTX) }
}

fn entry(statement: &str, program: &mut Program) -> Result {
    let Some(at) = statement.find(".entry") else { return Ok(()) };
    let declaration = &statement[at + ".entry".len()..];
    let (name, list) = match declaration.split_once('(') {
        Some((name, rest)) => (name, rest.split(')').next().unwrap_or_default()),
        None => (declaration.split_whitespace().next().unwrap_or_default(), ""),
    };
    let parameters = parameters(list).ok_or(Error::INVALID_PTX)?;
    program.entries.push(EntryPoint { name: name.trim().to_string(), parameters });
    Ok(())
}

fn global(statement: &str, program: &mut Program) {
    let Some(at) = statement.find(".global").or(statement.find(".const")) else { return };
    if let Some((name, _, size)) = variable(&statement[at..]) {
        program.globals.push(Global { name, size });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_parameters_with_their_offsets() {
        let text = "// c\n.version 8.0\n.target sm_90\n.address_size 64\n\
            .global .align 4 .b8 table[64];\n\
            /* old */ .visible .entry first(.param .u64 .ptr .global .align 16 p, .param .u32 n,\n .param .f32 s,\n\
            .param .align 8 .b8 struct_[24])\n.maxntid 256, 1, 1\n{ .reg .b32 %r<3>; ret; }\n\
            .visible .entry second() { ret; }";
        let program = parse(text).expect("valid PTX");
        assert_eq!(program.entries[0].name, "first");
        assert_eq!(program.entries[0].parameters, [(0, 8), (8, 4), (12, 4), (16, 24)]);
        assert_eq!(program.entries[1], EntryPoint { name: "second".into(), parameters: vec![] });
        assert_eq!(program.globals, [Global { name: "table".into(), size: 64 }]);
    }

    #[test]
    fn refuses_what_is_not_ptx() {
        assert_eq!(parse("hello"), Err(Error::INVALID_PTX));
    }
}
