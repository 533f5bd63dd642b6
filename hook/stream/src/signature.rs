//! What a kernel may write to, as far as its mangled name tells.
//!
//! C++ puts the types of a function's parameters into its name: `_Z18opt_step_adamw_f32PfPKfS_S_S1_l` is
//! `opt_step_adamw_f32(float*, float const*, float*, float*, float const*, long)`. Through a pointer to what is not `const` a
//! kernel may write; such a parameter never gets the address of a copy, which would take the bytes with it. Of kernels whose
//! names tell nothing (`extern "C"`, pointers inside structures) the profile's rules have to say that they write.

use cpp_demangle::{DemangleOptions, Symbol};

/// Parameters, a bit for each.
pub type Params = u64;

/// Longer names are those of templates of templates, whose pointers are in structures; they take long to read.
const LONGEST: usize = 4096;

/// The parameters, of `count`, through which a kernel of this name may write; none where the name does not tell.
pub fn written(name: &str, count: usize) -> Params {
    parameters(name).filter(|kinds| kinds.len() == count).map_or(0, |kinds| {
        let is_written = kinds.iter().take(Params::BITS as usize).enumerate().filter(|(_, kind)| is_written(kind));
        is_written.fold(0, |params, (at, _)| params | 1 << at)
    })
}

/// Whether it is a pointer to what is not `const`.
fn is_written(kind: &str) -> bool {
    kind.strip_suffix('*').is_some_and(|to| !to.trim_end_matches(" volatile").ends_with(" const"))
}

/// The types of a function's parameters.
fn parameters(name: &str) -> Option<Vec<String>> {
    if !name.starts_with("_Z") || name.len() > LONGEST {
        return None;
    }
    let options = DemangleOptions::new().no_return_type();
    let text = Symbol::new(name).ok()?.demangle_with_options(&options).ok()?;
    let inside = text.strip_suffix(')')?;
    // From the last parenthesis back to the one that it closes.
    let mut depth = 0usize;
    let opened = inside.char_indices().rev().find(|(_, letter)| {
        match letter {
            ')' => depth += 1,
            '(' if depth == 0 => return true,
            '(' => depth -= 1,
            _ => {}
        }
        false
    });
    Some(split(&inside[opened?.0 + 1..]))
}

/// Parts of a list between commas, those in brackets aside.
fn split(list: &str) -> Vec<String> {
    let (mut parts, mut depth, mut from) = (Vec::new(), 0i32, 0);
    for (at, letter) in list.char_indices() {
        match letter {
            '<' | '(' | '[' | '{' => depth += 1,
            '>' | ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(list[from..at].trim().to_owned());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(list[from..].trim().to_owned());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kernels as llama.cpp v0.5.0 has them, and others.
    #[test]
    fn a_pointer_to_what_is_not_const_may_be_written_through() {
        for (name, count, params) in [
            ("_Z18opt_step_adamw_f32PfPKfS_S_S1_l", 6, 0b1101),
            ("_Z16opt_step_sgd_f32PfPKfS1_l", 4, 0b1),
            ("_Z13mul_mat_vec_qIL9ggml_type12ELi1EEvPKvS2_Pf", 3, 0b100),
            ("_Z10k_get_rowsILi32ELi2EXadL_ZL15dequantize_q4_0PKvliR7__half2EEfEvS1_PKiPT2_l", 4, 0b100),
            ("_Z4eachIPFiiPfEfEvT_1PIT0_EPKPS5_S7_PVKS5_", 5, 0b01000),
            ("_Z5mergePPfS_PKS_PKPKf", 4, 0b0011),
            ("_ZN7cutlass6KernelI4GemmEEvNT_6ParamsE", 1, 0),
        ] {
            assert_eq!(written(name, count), params, "{name}: {:?}", parameters(name));
        }
    }

    #[test]
    fn names_that_do_not_tell_or_tell_of_another_kernel_say_nothing() {
        let long = format!("_Z{}{}Pf", LONGEST, "x".repeat(LONGEST));
        for name in ["", "gb_fill_u32", "_Z", "_Zzzz", "_Z4fillPf", "_ZTV4fill", &long] {
            assert_eq!(written(name, 2), 0, "{name}");
        }
        assert_eq!(written("_Z4fillPf", 1), 1);
        assert_eq!(written("_Z4fillv", 1), 0);
    }
}
