//! Faults kept with the request that has them.

use crate::{Error, Result};

/// Runs `work` on all together and, where that fails, on each alone; gives those that fail alone, with their errors.
///
/// After a failure `work` must be able to run again on some of the same.
pub(super) fn apart<T: Copy>(all: &[T], mut work: impl FnMut(&[T]) -> Result<()>) -> Vec<(T, Error)> {
    let Err(error) = work(all) else { return Vec::new() };
    if let &[one] = all {
        return vec![(one, error)];
    }
    all.iter().filter_map(|one| Some((*one, work(std::slice::from_ref(one)).err()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::caught;

    #[test]
    fn a_fault_is_of_those_that_have_it_alone() {
        // 3 panics and 5 fails, in any company; the others are done once.
        let mut done = Vec::new();
        let failed = apart(&[1, 3, 5, 7], |numbers| {
            caught(|| {
                assert!(!numbers.contains(&3), "a three");
                if numbers.contains(&5) {
                    return Err(Error::other("a five"));
                }
                done.extend_from_slice(numbers);
                Ok(())
            })
        });
        let failed: Vec<(i32, String)> = failed.into_iter().map(|(n, e)| (n, e.to_string())).collect();
        assert_eq!(failed[0], (3, "a fault of the engine: a three".to_owned()));
        assert_eq!(failed[1], (5, "a five".to_owned()));
        assert_eq!((failed.len(), done), (2, vec![1, 7]));
    }

    #[test]
    fn without_a_fault_all_are_done_together() {
        let mut calls = 0;
        let failed = apart(&[1, 2, 3], |numbers| {
            calls += 1;
            assert_eq!(numbers, [1, 2, 3]);
            Ok(())
        });
        assert_eq!((failed.len(), calls), (0, 1));
        assert!(apart(&[], |_: &[u8]| Ok(())).is_empty());
    }

    #[test]
    fn one_alone_is_not_tried_twice() {
        let mut calls = 0;
        let failed = apart(&[4], |_| {
            calls += 1;
            Err(Error::other("no"))
        });
        assert_eq!((failed.len(), calls), (1, 1));
    }
}
