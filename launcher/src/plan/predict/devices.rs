//! A model over several GPUs, as llama.cpp spreads it by itself: whole layers, in order, to each as many as its free VRAM is of
//! the whole. What is planned is a model that fits there whole.

use super::placement::{Placement, Setting};
use crate::plan::facts::{Amount, Facts, POOLS};
use greenboost_contract::format_size;

/// What each GPU would hold, in order.
pub fn spread(facts: &Facts, setting: &Setting, free: &[u64]) -> Vec<Placement> {
    let scratch = facts.widths.bytes(&setting.context);
    let empty = Placement { scratch, pools: POOLS, ..Placement::default() };
    let mut devices = vec![empty; free.len()];
    let all = free.iter().map(|bytes| *bytes as f64).sum::<f64>();
    // Where each ends, as a share.
    let ends: Vec<f64> = free
        .iter()
        .scan(0.0, |sum, bytes| {
            *sum += *bytes as f64;
            Some(*sum / all.max(1.0))
        })
        .collect();
    // The output is the last of them.
    let count = facts.layers.len() + facts.speculative as usize + 1;
    let device = |layer: usize| {
        let place = layer.min(count - 1) as f64 / count as f64;
        ends.partition_point(|end| *end <= place).min(free.len().saturating_sub(1))
    };
    let mut add = |layer: usize, dense: Amount, experts: Amount, kv: u64| {
        if let Some(placement) = devices.get_mut(device(layer)) {
            placement.inside.dense = placement.inside.dense.plus(dense);
            placement.inside.experts = placement.inside.experts.plus(experts);
            let place = if setting.kv_in_ram { &mut placement.kv_outside } else { &mut placement.kv_inside };
            *place = place.saturating_add(kv);
        }
    };
    for (index, layer) in facts.layers.iter().enumerate() {
        add(index, layer.dense(), layer.experts(), 0);
    }
    for (index, cache) in facts.cache.layers.iter().enumerate() {
        let kv = facts.cache.layer_bytes(cache, &setting.context);
        add(index, Amount::default(), Amount::default(), kv);
    }
    add(count - 1, facts.output, Amount::default(), 0);
    devices
}

/// All of them together, or why it does not fit: each GPU may use `budgets` of its VRAM.
///
/// # Errors
/// What the first that has too little would need.
pub fn all_inside(facts: &Facts, setting: &Setting, free: &[u64], budgets: &[u64]) -> Result<Placement, String> {
    let devices = spread(facts, setting, free);
    for (index, (device, budget)) in devices.iter().zip(budgets).enumerate() {
        if device.vram() > *budget {
            let (needs, budget) = (format_size(device.vram()), format_size(*budget));
            return Err(format!("GPU {index} of {} needs {needs} of VRAM, {budget} may be used", free.len()));
        }
    }
    Ok(devices.into_iter().fold(Placement::default(), |sum, device| Placement {
        inside: sum.inside.plus(device.inside),
        kv_inside: sum.kv_inside.saturating_add(device.kv_inside),
        kv_outside: sum.kv_outside.saturating_add(device.kv_outside),
        scratch: sum.scratch.saturating_add(device.scratch),
        pools: sum.pools.saturating_add(device.pools),
        ..sum
    }))
}

#[cfg(test)]
mod tests {
    use super::super::tests::setting;
    use super::*;
    use crate::plan::test_models::{dense, facts};

    const GIB: u64 = 1 << 30;

    #[test]
    fn layers_go_to_gpus_by_their_free_vram() {
        let dense = facts(&dense());
        let setting = setting(24, 8192, 512);
        let layers = |placement: &Placement| placement.kv_inside / (8192 * 2 * 2 * 1024);
        let equal = spread(&dense, &setting, &[24 * GIB, 24 * GIB]);
        // 64 layers and the output: 33 and 31, and the output with those.
        assert_eq!((layers(&equal[0]), layers(&equal[1])), (33, 31));
        let unequal = spread(&dense, &setting, &[24 * GIB, 12 * GIB, 12 * GIB, 48 * GIB]);
        assert_eq!(unequal.iter().map(layers).collect::<Vec<_>>(), [17, 8, 8, 31]);
        let whole: u64 = unequal.iter().map(|device| device.inside.bytes()).sum();
        assert_eq!(whole, dense.computed().bytes(), "nothing is lost between two");
        assert!(unequal[3].inside.dense.bytes > 31 * dense.layers[0].dense().bytes, "the output is on the last");
    }

    #[test]
    fn each_gpu_needs_room_for_its_part() {
        let dense = facts(&dense());
        let setting = setting(24, 8192, 512);
        let free = [12 * GIB, 12 * GIB];
        let whole = all_inside(&dense, &setting, &free, &free).expect("it fits both, and neither alone");
        assert!(whole.vram() > 12 * GIB && whole.outside.bytes() == 0);
        let error = all_inside(&dense, &setting, &free, &[12 * GIB, 2 * GIB]).expect_err("the second is full");
        assert!(error.starts_with("GPU 1 of 2 needs ") && error.ends_with(" of VRAM, 2 GiB may be used"), "{error}");
    }
}
