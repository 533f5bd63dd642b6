//! The order in which tensors are used. It repeats with every token and micro-batch, so what followed a tensor last
//! time will follow it again. A wrong guess costs time, never correctness.

use super::ring::Key;
use std::collections::HashMap;

/// What follows what.
#[derive(Debug, Default)]
pub struct Order {
    next: HashMap<Key, Key>,
    last: Option<Key>,
}

impl Order {
    /// A tensor is used now. Whether it is another one than before: what several kernels in a row read is one use.
    pub fn used(&mut self, key: Key) -> bool {
        if self.last == Some(key) {
            return false;
        }
        if let Some(last) = self.last.replace(key) {
            self.next.insert(last, key);
        }
        true
    }

    /// Tensors expected after the last one used, nearest first; ends where the order is not known or comes round. It
    /// always ends: each step leads to a tensor whose last use was later, until it is the last one's.
    pub fn ahead(&self) -> impl Iterator<Item = Key> + '_ {
        let start = self.last;
        std::iter::successors(start, move |key| self.next.get(key).copied().filter(|next| Some(*next) != start)).skip(1)
    }

    /// A tensor is no more.
    pub fn forget(&mut self, gone: impl Fn(Key) -> bool) {
        self.next.retain(|key, next| !gone(*key) && !gone(*next));
        self.last = self.last.filter(|key| !gone(*key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_one_pass_is_expected_in_the_next() {
        let mut order = Order::default();
        [1, 2, 2, 3, 4, 1].into_iter().for_each(|key| {
            order.used(key);
        });
        assert_eq!(order.ahead().collect::<Vec<_>>(), [2, 3, 4]);
        order.used(2);
        assert_eq!(order.ahead().collect::<Vec<_>>(), [3, 4, 1]);
    }

    #[test]
    fn an_order_that_changes_is_followed() {
        let mut order = Order::default();
        [1, 2, 3, 2, 3, 2].into_iter().for_each(|key| {
            order.used(key);
        });
        assert_eq!(order.ahead().collect::<Vec<_>>(), [3]);
        order.used(5);
        assert_eq!(order.ahead().count(), 0, "what follows 5 nobody knows");
    }

    #[test]
    fn what_is_gone_is_not_expected() {
        let mut order = Order::default();
        [1, 2, 3, 1].into_iter().for_each(|key| {
            order.used(key);
        });
        order.forget(|key| key == 2);
        assert_eq!(order.ahead().count(), 0);
    }
}
