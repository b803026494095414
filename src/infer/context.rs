//! Requests against the positions that a model was made for (`max_position_embeddings`).
//!
//! Beyond them rotary angles are such as the model has never met, and what it says is noise that looks like an answer. So
//! a prompt that leaves no room for one is refused, and reasoning and answer end where the positions do, as they end at
//! the limits of the request (spec section 5).

use super::request::Generation;
use super::sequence::{Phase, Prepared};
use crate::model::marks::beginning;
use crate::{Error, Result};

/// Lowers the limits of a request so that it stays within `most` positions.
///
/// # Errors
/// [`Error::Usage`] for a prompt after which no answer fits.
pub(super) fn fit(request: &mut Prepared, most: usize) -> Result<()> {
    let sampling = &mut request.sampling;
    // The separator takes a position, the last token of the answer is not fed.
    let (thoughts, reasoning, separator) = match request.start {
        Phase::Latents => (0, Some(&mut sampling.max_latents), 1),
        Phase::Thoughts(n) => (n, Some(&mut sampling.max_cot_tokens), 1),
        Phase::Reasoning => (0, Some(&mut sampling.max_cot_tokens), 1),
        Phase::Answer => (0, None, 0),
    };
    let prompt = request.prompt_ids.len();
    let least = prompt + thoughts + usize::from(reasoning.is_some()) + separator;
    let Some(free) = most.checked_sub(least) else {
        let reasoning = match least - prompt {
            0 => String::new(),
            n => format!(", of which the shortest reasoning takes {n}"),
        };
        return Err(Error::usage(format!(
            "{:?}: a prompt of {prompt} tokens, and the model was made for {most} positions \
             (max_position_embeddings){reasoning}; with `allow_long` it runs all the same",
            beginning(&request.question)
        )));
    };
    let wanted = sampling.max_new_tokens - 1;
    let mut left = free;
    if let Some(reasoning) = reasoning {
        let most_of_it = 1 + free.saturating_sub(wanted);
        request.cut = *reasoning > most_of_it;
        *reasoning = (*reasoning).min(most_of_it);
        left -= *reasoning - 1;
    }
    request.cut |= wanted > left;
    sampling.max_new_tokens = 1 + wanted.min(left);
    Ok(())
}

/// Whether a generation ended, or its reasoning did, where the model's positions end and not where its request said.
pub(super) fn met_the_end(request: &Prepared, generation: &Generation) -> bool {
    let most = match request.start {
        Phase::Latents => request.sampling.max_latents,
        Phase::Thoughts(n) => n + request.sampling.max_cot_tokens,
        Phase::Reasoning => request.sampling.max_cot_tokens,
        Phase::Answer => usize::MAX,
    };
    request.cut && (!generation.finished || generation.n_latents >= most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::Sampling;

    fn request(prompt: usize, start: Phase) -> Prepared {
        Prepared {
            adapter: None,
            prompt_ids: vec![0; prompt],
            start,
            after_thoughts: None,
            sampling: Sampling::default().max_latents(20).max_cot_tokens(30).max_new_tokens(8),
            cut: false,
            trace: false,
            question: String::new(),
            compression_factor: String::new(),
        }
    }

    /// Limits of reasoning and answer, and whether they were lowered.
    fn fitted(prompt: usize, start: Phase, most: usize) -> Option<(usize, usize, bool)> {
        let mut request = request(prompt, start);
        fit(&mut request, most).ok()?;
        let Sampling { max_latents, max_cot_tokens, max_new_tokens, .. } = request.sampling;
        let reasoning = if start == Phase::Latents { max_latents } else { max_cot_tokens };
        Some((reasoning, max_new_tokens, request.cut))
    }

    #[test]
    fn what_fits_is_left_alone() {
        // 10 + 20 latents + the separator + 7 tokens of the answer that are fed.
        assert_eq!(fitted(10, Phase::Latents, 38), Some((20, 8, false)));
        assert_eq!(fitted(10, Phase::Reasoning, 48), Some((30, 8, false)));
        assert_eq!(fitted(10, Phase::Thoughts(6), 54), Some((30, 8, false)));
        assert_eq!(fitted(10, Phase::Answer, 17), Some((30, 8, false)));
    }

    #[test]
    fn reasoning_gives_way_before_the_answer() {
        assert_eq!(fitted(10, Phase::Latents, 37), Some((19, 8, true)));
        assert_eq!(fitted(10, Phase::Latents, 19), Some((1, 8, true)));
        assert_eq!(fitted(10, Phase::Latents, 18), Some((1, 7, true)));
        assert_eq!(fitted(10, Phase::Latents, 12), Some((1, 1, true)));
        assert_eq!(fitted(10, Phase::Thoughts(6), 53), Some((29, 8, true)));
        assert_eq!(fitted(10, Phase::Answer, 16), Some((30, 7, true)));
        assert_eq!(fitted(10, Phase::Answer, 10), Some((30, 1, true)));
    }

    /// However a request is cut, the positions that it can take are as many as there are, and no more.
    #[test]
    fn what_is_cut_takes_all_positions_and_no_more() {
        for most in 12..80 {
            for (start, fixed) in [(Phase::Latents, 1), (Phase::Reasoning, 1), (Phase::Thoughts(6), 7)] {
                let Some((reasoning, answer, cut)) = fitted(10, start, most) else {
                    assert!(10 + fixed + 1 > most);
                    continue;
                };
                let taken = 10 + fixed + reasoning + answer - 1;
                assert!(if cut { taken == most } else { taken <= most }, "{start:?} in {most}: {taken}");
            }
        }
    }

    #[test]
    fn prompts_without_room_are_refused() {
        for (start, least) in
            [(Phase::Latents, 12), (Phase::Reasoning, 12), (Phase::Thoughts(6), 18), (Phase::Answer, 10)]
        {
            assert!(fitted(10, start, least).is_some());
            let error = fit(&mut request(10, start), least - 1).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("a prompt of 10 tokens"), "{error}");
        }
    }
}
