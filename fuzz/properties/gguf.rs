//! What holds for any bytes that are read as a GGUF header. Run by the fuzzer on new inputs and by `cargo test` on those
//! it has kept.

use greenboost_gguf::read;
use std::io::Cursor;

/// # Panics
/// When it does not hold.
pub fn check(data: &[u8]) {
    // As if the file went on in a hole, so that tables of large tensors are read as well.
    for length in [data.len() as u64, data.len() as u64 + (1 << 40)] {
        match read(Cursor::new(data), length) {
            Ok(header) => {
                assert!(header.alignment.is_power_of_two() && header.data.is_multiple_of(header.alignment));
                let mut bytes = 0u64;
                for tensor in &header.tensors {
                    assert!(tensor.offset >= header.data && tensor.offset + tensor.bytes <= length, "{tensor:?}");
                    assert!(tensor.offset.is_multiple_of(header.alignment), "{tensor:?}");
                    assert_eq!(tensor.kind.size(tensor.shape[0], tensor.weights()), Some(tensor.bytes), "{tensor:?}");
                    bytes += tensor.bytes;
                }
                assert!(bytes <= length, "tensors lie on one another");
            }
            Err(error) => {
                let text = error.to_string();
                // What is wrong, then what to do; nothing in the file's names ends a line or speaks to the terminal.
                assert_eq!((text.lines().count(), text.matches(char::is_control).count()), (2, 1), "{text:?}");
            }
        }
    }
}
