//! The sizes of ggml's types, against the structs of ggml-common.h.

use greenboost_gguf::{REMOVED, TensorType};

/// Name, number, weights a block, and the block's fields in bytes as ggml-common.h lists them (scales, then weights).
const REFERENCE: &[(&str, u32, u64, &[u64])] = &[
    ("F32", 0, 1, &[4]),
    ("F16", 1, 1, &[2]),
    ("Q4_0", 2, 32, &[2, 16]),
    ("Q4_1", 3, 32, &[2, 2, 16]),
    ("Q5_0", 6, 32, &[2, 4, 16]),
    ("Q5_1", 7, 32, &[2, 2, 4, 16]),
    ("Q8_0", 8, 32, &[2, 32]),
    // Never in a file; gguf-py still has the 32-bit scales of 2023 here.
    ("Q8_1", 9, 32, &[2, 2, 32]),
    ("Q2_K", 10, 256, &[16, 64, 2, 2]),
    ("Q3_K", 11, 256, &[32, 64, 12, 2]),
    ("Q4_K", 12, 256, &[2, 2, 12, 128]),
    ("Q5_K", 13, 256, &[2, 2, 12, 32, 128]),
    ("Q6_K", 14, 256, &[128, 64, 16, 2]),
    ("Q8_K", 15, 256, &[4, 256, 32]),
    ("IQ2_XXS", 16, 256, &[2, 64]),
    ("IQ2_XS", 17, 256, &[2, 64, 8]),
    ("IQ3_XXS", 18, 256, &[2, 96]),
    ("IQ1_S", 19, 256, &[2, 32, 16]),
    ("IQ4_NL", 20, 32, &[2, 16]),
    ("IQ3_S", 21, 256, &[2, 64, 8, 32, 4]),
    ("IQ2_S", 22, 256, &[2, 64, 8, 8]),
    ("IQ4_XS", 23, 256, &[2, 2, 4, 128]),
    ("I8", 24, 1, &[1]),
    ("I16", 25, 1, &[2]),
    ("I32", 26, 1, &[4]),
    ("I64", 27, 1, &[8]),
    ("F64", 28, 1, &[8]),
    ("IQ1_M", 29, 256, &[32, 16, 8]),
    ("BF16", 30, 1, &[2]),
    ("TQ1_0", 34, 256, &[48, 4, 2]),
    ("TQ2_0", 35, 256, &[64, 2]),
    ("MXFP4", 39, 32, &[1, 16]),
    ("NVFP4", 40, 64, &[4, 32]),
    ("Q1_0", 41, 128, &[2, 16]),
    ("Q2_0", 42, 64, &[2, 16]),
];

#[test]
fn every_type_has_the_size_of_its_struct() {
    assert_eq!(REFERENCE.len(), TensorType::ALL.len());
    for (name, id, block, fields) in REFERENCE {
        let kind = TensorType::from_id(*id).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!((kind.name, kind.block, kind.bytes), (*name, *block, fields.iter().sum()), "{name}");
        assert_eq!(kind.size(*block * 4, *block * 8), Some(kind.bytes * 8), "{name}");
    }
    for (id, name) in REMOVED {
        assert_eq!(TensorType::from_id(*id), None, "{name}");
    }
}

#[test]
fn rows_that_end_inside_a_block_have_no_size() {
    let q4 = TensorType::from_name("q4_k").expect("Q4_K");
    assert_eq!(q4.size(128, 256), None);
    let f64 = TensorType::from_name("F64").expect("F64");
    assert_eq!(f64.size(1, 1 << 61), None);
}
