//! The hook's own kernel in front of a launch over experts: `hook/stream/src/experts/ids.ptx`.

use crate::errors::Result;
use crate::gpu::Gpu;
use crate::kernel::{Arguments, aligned};
use std::sync::atomic::{AtomicU32, Ordering};

/// Its entry.
pub const NAME: &str = "greenboost_expert_ids";
/// Its parameters: table, ids, out, n_used, n_tokens, ids_stride, slot_base, experts, notes, note_mask, note_head, layer.
pub const PARAMETERS: &[usize] = &[8, 8, 8, 4, 4, 4, 4, 4, 8, 4, 8, 4];

const NOTE: u32 = 0x8000_0000;
const HIT: u32 = 0x8000;
/// What is noted of an id that names no expert.
const NONE: u32 = 0x7fff;

/// The program's ids become those that are passed on, and are noted.
pub fn rewrite(gpu: &Gpu, arguments: &Arguments) -> Result {
    let [table, ids, out, notes, head] = [0, 1, 2, 8, 10].map(|index| arguments.u64(index));
    let [used, tokens, stride, slot_base, experts, mask, layer] =
        [3, 4, 5, 6, 7, 9, 11].map(|index| arguments.u32(index));
    let first =
        if notes == 0 { 0 } else { with_word(gpu, head, |word| word.fetch_add(used * tokens, Ordering::AcqRel))? };
    for index in 0..used * tokens {
        let (token, which) = (index / used, index % used);
        let at = 4 * (u64::from(token) * u64::from(stride) + u64::from(which));
        let expert = with_word(gpu, ids + at, |word| word.load(Ordering::Acquire))?;
        let (mut passed, mut note) = (expert, NONE);
        if expert < experts {
            let slot = with_word(gpu, table + 4 * u64::from(expert), |word| word.load(Ordering::Acquire))?;
            note = expert;
            if slot.cast_signed() >= 0 {
                passed = slot_base.wrapping_add(slot);
                note |= HIT;
            }
        }
        with_word(gpu, out + at, |word| word.store(passed, Ordering::Release))?;
        if notes != 0 {
            let place = notes + 4 * u64::from(first.wrapping_add(index) & mask);
            with_word(gpu, place, |word| word.store(NOTE | layer << 16 | note, Ordering::Release))?;
        }
    }
    Ok(())
}

/// A word that the host or another stream may touch at the same time.
fn with_word<T>(gpu: &Gpu, address: u64, act: impl FnOnce(&AtomicU32) -> T) -> Result<T> {
    aligned(address, 4)?;
    let window = gpu.window(address, true)?;
    // SAFETY: an aligned word of the window.
    Ok(act(unsafe { AtomicU32::from_ptr(window.at(address).cast()) }))
}
