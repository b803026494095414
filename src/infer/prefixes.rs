//! Beginnings that prompts have in common, computed once.

/// Positions below which it is not worth copying the beginning of a prompt.
const LEAST: usize = 16;

/// A prompt whose first positions are in the cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub slot: usize,
    pub tokens: &'a [u32],
    /// Positions that are there, at most those of the prompt.
    pub held: usize,
}

/// The beginning of a prompt that is to be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    pub slot: usize,
    pub len: usize,
}

/// First tokens that two prompts share.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The longest beginning of `prompt` that is in the cache, if it is worth copying. It is the whole prompt only where the
/// source is that prompt, whose last hidden state is known then; otherwise the last token is left to be computed.
pub(super) fn longest<'a>(prompt: &[u32], sources: impl Iterator<Item = Source<'a>>) -> Option<Prefix> {
    let usable = sources.map(|source| {
        let len = common(prompt, &source.tokens[..source.held]);
        let whole = len == prompt.len() && len == source.tokens.len();
        Prefix { slot: source.slot, len: if whole { len } else { len.min(prompt.len().saturating_sub(1)) } }
    });
    // Of equals the first, so that what is copied does not depend on who came later.
    let best = usable.reduce(|best, next| if next.len > best.len { next } else { best })?;
    (best.len >= LEAST || best.len == prompt.len()).then_some(best)
}

/// Whether it is worth for `prompt` to wait until another, of which nothing is known yet, is in the cache: they share more
/// than `has` positions that are there already.
pub(super) fn worth_waiting(prompt: &[u32], other: &[u32], has: usize) -> bool {
    let len = common(prompt, other);
    let whole = len == prompt.len() && len == other.len();
    len > has && (len >= LEAST || whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(slot: usize, tokens: &[u32], held: usize) -> Source<'_> {
        Source { slot, tokens, held }
    }

    #[test]
    fn the_longest_beginning_is_found() {
        let prompt: Vec<u32> = (0..40).collect();
        let longer: Vec<u32> = (0..60).collect();
        let other: Vec<u32> = (0..20).chain(90..99).collect();
        let short: Vec<u32> = (0..5).collect();
        let of = |sources: &[Source<'_>]| longest(&prompt, sources.iter().copied());
        assert_eq!(of(&[]), None);
        // Five tokens are not worth it, and neither is what is not there yet.
        assert_eq!(of(&[source(0, &short, 5), source(1, &longer, 9)]), None);
        assert_eq!(of(&[source(0, &other, 29), source(1, &longer, 18)]), Some(Prefix { slot: 0, len: 20 }));
        // Of a longer prompt the last hidden state is another's.
        assert_eq!(of(&[source(0, &other, 29), source(1, &longer, 60)]), Some(Prefix { slot: 1, len: 39 }));
        let whole = Some(Prefix { slot: 2, len: 40 });
        assert_eq!(of(&[source(1, &longer, 60), source(2, &prompt, 40)]), whole);
        assert_eq!(longest(&short, [source(3, &short, 5)].into_iter()), Some(Prefix { slot: 3, len: 5 }));
    }

    #[test]
    fn waiting_is_for_more_than_there_is() {
        let (prompt, other): (Vec<u32>, Vec<u32>) = ((0..40).collect(), (0..30).chain(70..75).collect());
        assert!(worth_waiting(&prompt, &other, 29) && !worth_waiting(&prompt, &other, 30));
        assert!(!worth_waiting(&prompt[..9], &other, 0));
        assert!(worth_waiting(&prompt[..9], &prompt[..9], 0));
    }
}
