//! The Rust structs against the C header, as a C compiler sees it: every size, every offset, every number.

use greenboost_kmod::abi;
use std::fmt::Write;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Command;

/// Each row: a C expression, and what Rust has for it.
macro_rules! rows {
    ($($c:ident = $rust:ident { $($field:ident),* })*) => {
        vec![$(
            (concat!("sizeof(struct ", stringify!($c), ")"), size_of::<abi::$rust>() as u64),
            $((concat!("offsetof(struct ", stringify!($c), ", ", stringify!($field), ")"), offset_of!(abi::$rust, $field) as u64),)*
        )*]
    };
}

fn rows() -> Vec<(&'static str, u64)> {
    let mut rows = rows! {
        gb_info = Info { abi_major, abi_minor, ram_level, spill_level, causes, reserved0, pool_limit_bytes,
            pool_used_bytes, user_limit_bytes, user_used_bytes, file_limit_bytes, file_used_bytes,
            reserve_wanted_bytes, reserve_ready_bytes, available_bytes, decline_bytes_per_s, spill_free_bytes,
            refused, reserved }
        gb_alloc = Alloc { bytes, flags, node, ready_bytes, fd, reserved }
        gb_event = Event { ram_level, spill_level, causes, reserved, seq, available_bytes, spill_free_bytes }
    };
    rows.extend([
        ("GB_ABI_MAJOR", abi::ABI_MAJOR.into()),
        ("GB_ABI_MINOR", abi::ABI_MINOR.into()),
        ("GB_CHUNK_BYTES", abi::CHUNK_BYTES),
        ("GB_LEVEL_OK", abi::LEVEL_OK.into()),
        ("GB_LEVEL_LOW", abi::LEVEL_LOW.into()),
        ("GB_LEVEL_CRITICAL", abi::LEVEL_CRITICAL.into()),
        ("GB_CAUSE_MEMORY", abi::CAUSE_MEMORY.into()),
        ("GB_CAUSE_DECLINE", abi::CAUSE_DECLINE.into()),
        ("GB_CAUSE_POOL", abi::CAUSE_POOL.into()),
        ("GB_CAUSE_SPILL", abi::CAUSE_SPILL.into()),
        ("GB_CAUSE_SPILL_GONE", abi::CAUSE_SPILL_GONE.into()),
        ("GB_IOC_INFO", abi::IOC_INFO.into()),
        ("GB_IOC_ALLOC", abi::IOC_ALLOC.into()),
    ]);
    rows
}

#[test]
fn the_structs_are_those_of_the_c_header() {
    let rows = rows();
    let mut source =
        String::from("#include <stddef.h>\n#include <stdio.h>\n#include <uapi/greenboost.h>\nint main(void) {\n");
    for (expression, _) in &rows {
        writeln!(source, "printf(\"%llu\\n\", (unsigned long long)({expression}));").expect("a string takes it");
    }
    source.push_str("return 0; }\n");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (file, program) = (dir.path().join("abi.c"), dir.path().join("abi"));
    std::fs::write(&file, source).expect("the source is written");
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include");
    let mut compiler = Command::new("cc");
    compiler.arg("-Wall").arg("-Werror").arg("-I").arg(include).arg(&file).arg("-o").arg(&program);
    assert!(compiler.status().expect("there is a C compiler").success());
    let output = Command::new(&program).output().expect("the program runs").stdout;
    let output = String::from_utf8(output).expect("digits");
    let found: Vec<u64> = output.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(found.len(), rows.len());
    for ((expression, ours), theirs) in rows.iter().zip(found) {
        assert_eq!(*ours, theirs, "{expression}");
    }
}

#[test]
fn every_field_of_the_header_is_compared() {
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("../include/uapi/greenboost.h");
    let header = std::fs::read_to_string(header).expect("the header lies beside this crate");
    let fields = header
        .lines()
        .filter(|line| line.starts_with('\t') && line.contains(';') && !line.trim_start().starts_with("GB_"))
        .count();
    let compared = rows().iter().filter(|(expression, _)| expression.starts_with("offsetof")).count();
    assert_eq!(fields, compared);
}
