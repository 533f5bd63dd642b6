//! Synthetic routing, and what plain caches make of it.
//!
//! A layer's score of an expert is a sum of Gaussians: what the model prefers, what the session does, what changes slowly from
//! token to token, and noise. The experts with the highest scores are used. The sizes of the parts are fitted to published hit
//! rates of real models.

use fastrand::Rng;

/// A model's routing.
pub struct Routing {
    pub experts: usize,
    pub used: usize,
    /// Standard deviations of the model's part, the session's, the slow one, and the noise.
    model: f64,
    session: f64,
    slow: f64,
    noise: f64,
    /// How much of the slow part stays from one token to the next.
    stays: f64,
}

/// 128 experts, 8 used; like Qwen3-30B-A3B.
pub const QWEN3: Routing =
    Routing { experts: 128, used: 8, model: 0.6, session: 0.9, slow: 0.9, stays: 0.7, noise: 0.6 };
/// 512 experts, 10 used; nothing of the model's own.
pub const MANY: Routing =
    Routing { experts: 512, used: 10, model: 0.0, session: 0.8, slow: 0.8, stays: 0.6, noise: 0.6 };
/// 256 experts, 6 used; strongly skewed.
pub const SKEWED: Routing =
    Routing { experts: 256, used: 6, model: 1.1, session: 0.8, slow: 1.4, stays: 0.6, noise: 0.3 };
/// Every expert as likely as any other, whatever came before.
pub const UNIFORM: Routing =
    Routing { experts: 128, used: 8, model: 0.0, session: 0.0, slow: 0.0, stays: 0.0, noise: 1.0 };

/// What each token asks for.
pub type Trace = Vec<Vec<i32>>;

fn gauss(rng: &mut Rng) -> f64 {
    // Box and Muller's; the logarithm of 0 is not wanted.
    let (radius, angle) = (1.0 - rng.f64(), rng.f64());
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// One layer's routing of a session. The model's part depends on the layer alone, all else on the session as well.
pub fn generate(routing: &Routing, layer: u64, session: u64, tokens: usize) -> Trace {
    let Routing { experts, used, stays, .. } = *routing;
    let draw = |rng: &mut Rng, size: f64| -> Vec<f64> { (0..experts).map(|_| size * gauss(rng)).collect() };
    let model = draw(&mut Rng::with_seed(layer), routing.model);
    let mut rng = Rng::with_seed(session << 32 | layer);
    let own = draw(&mut rng, routing.session);
    let mut slow = draw(&mut rng, 1.0);
    let changes = (1.0 - stays * stays).sqrt();
    let mut token = || {
        let mut score = |at: usize, slow: &mut f64| {
            *slow = stays * *slow + changes * gauss(&mut rng);
            (model[at] + own[at] + routing.slow * *slow + routing.noise * gauss(&mut rng), at as i32)
        };
        let mut scores: Vec<(f64, i32)> = slow.iter_mut().enumerate().map(|(at, slow)| score(at, slow)).collect();
        scores.sort_by(|a, b| b.0.total_cmp(&a.0));
        scores.iter().take(used).map(|(_, at)| *at).collect()
    };
    (0..tokens).map(|_| token()).collect()
}
