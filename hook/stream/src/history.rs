//! The order in which tensors are used. It repeats with every token and micro-batch, so what followed a tensor last
//! time will follow it again. A wrong guess costs time, never correctness.
//!
//! Programs have several orders: decoding leaves out what prompts copy, a draft model runs between two passes of the large
//! one, a matrix serves twice in a pass. So it is what followed the last *two* tensors that is expected, and what followed
//! the last one where these two were never seen together.

use super::ring::Key;
use std::collections::HashMap;

/// What follows what.
#[derive(Debug, Default)]
pub struct History {
    after_two: HashMap<(Key, Key), Key>,
    after_one: HashMap<Key, Key>,
    /// The last one used, and the one before it.
    last: Option<Key>,
    before: Option<Key>,
}

impl History {
    /// A tensor is used now. Whether it is another one than before: what several kernels in a row read is one use.
    pub fn used(&mut self, key: Key) -> bool {
        if self.last == Some(key) {
            return false;
        }
        if let Some(last) = self.last {
            self.after_one.insert(last, key);
            if let Some(before) = self.before {
                self.after_two.insert((before, last), key);
            }
        }
        self.before = self.last.replace(key);
        true
    }

    /// Tensors expected after the last one used, nearest first; ends where the order is not known or has come round.
    pub fn ahead(&self) -> impl Iterator<Item = Key> + '_ {
        let start = (self.before, self.last);
        let follow = move |(before, last): &(Option<Key>, Option<Key>)| {
            let last = (*last)?;
            let known = before.and_then(|before| self.after_two.get(&(before, last)));
            let next = known.or_else(|| self.after_one.get(&last)).copied()?;
            Some((Some(last), Some(next))).filter(|state| *state != start)
        };
        // A guess may lead into a circle that does not lead back: no order is longer than what is known.
        let most = self.after_two.len().max(self.after_one.len());
        std::iter::successors(Some(start), follow).skip(1).take(most).filter_map(|(_, next)| next)
    }

    /// Tensors are gone.
    pub fn forget(&mut self, gone: impl Fn(Key) -> bool) {
        self.after_two.retain(|(before, last), next| !gone(*before) && !gone(*last) && !gone(*next));
        self.after_one.retain(|last, next| !gone(*last) && !gone(*next));
        self.last = self.last.filter(|key| !gone(*key));
        self.before = self.before.filter(|key| !gone(*key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(uses: &[Key]) -> Vec<Key> {
        let mut history = History::default();
        uses.iter().for_each(|key| {
            history.used(*key);
        });
        history.ahead().take(8).collect()
    }

    #[test]
    fn the_order_of_one_pass_is_expected_in_the_next() {
        assert_eq!(after(&[1, 2, 2, 3, 4, 1])[..3], [2, 3, 4]);
        // From the second pass on, it comes round.
        assert_eq!(after(&[1, 2, 3, 4, 1, 2, 3, 4, 1]), [2, 3, 4]);
        assert_eq!(after(&[1, 2, 3, 4, 1, 2, 3, 4, 1, 2]), [3, 4, 1]);
    }

    #[test]
    fn an_order_that_changes_is_followed() {
        assert_eq!(after(&[1, 2, 3, 2, 3, 2]), [3]);
        assert_eq!(after(&[1, 2, 3, 2, 3, 2, 5]), [], "what follows 5 nobody knows");
    }

    #[test]
    fn what_comes_twice_in_a_pass_is_followed_by_what_comes_then() {
        let pass = [7, 1, 2, 7, 3, 4];
        assert_eq!(after(&[&pass[..], &pass, &[7, 1, 2, 7]].concat())[..5], [3, 4, 7, 1, 2]);
    }

    #[test]
    fn phases_that_use_the_same_tensors_have_orders_of_their_own() {
        // A prompt copies 11 to 13 as well, decoding does not.
        let (prompt, decode) = ([1, 11, 2, 12, 3, 13], [1, 2, 3]);
        let uses = [&prompt[..], &prompt, &decode, &decode, &prompt, &decode].concat();
        assert_eq!(after(&[&uses[..], &[1, 2]].concat()), [3, 1]);
        assert_eq!(after(&[&uses[..], &[1, 11]].concat())[..5], [2, 12, 3, 13, 1]);
    }

    #[test]
    fn what_is_gone_is_not_expected() {
        let mut history = History::default();
        [1, 2, 3, 1].into_iter().for_each(|key| {
            history.used(key);
        });
        history.forget(|key| key == 2);
        assert_eq!(history.ahead().count(), 0);
    }
}
