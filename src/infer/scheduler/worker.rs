//! The thread that runs the requests of a scheduler.
//!
//! Between two steps of those that run it hears what is asked of them, lets the first in the queue in as long as there is
//! room, and reads one piece of the prompts. So a long prompt never delays the others by more than a piece.

use std::time::Instant;

use super::apart::apart;
use super::inbox::{Client, Coming, Inbox, Job, SchedulerLoad, Signals};
use super::options::SchedulerOptions;
use super::seats::Seats;
use super::update::{Completed, Ending, Timings, Update, Usage};
use crate::device::{Device, FEW_ROWS};
use crate::error::caught;
use crate::infer::batch::{Batch, Kept, Piece};
use crate::infer::request::Event;
use crate::infer::sequence::{Parts, Sequence, finish};
use crate::model::kv_cache::KvCache;
use crate::{Error, Result};

/// Runs what comes until nothing comes any more; `ready` is called when the memory is there.
///
/// # Errors
/// Errors of the device before `ready`; after it, those that concern no single request.
pub(super) fn run<D: Device>(
    parts: &Parts<'_, D>,
    options: &SchedulerOptions,
    inbox: &Inbox,
    ready: &mut (dyn FnMut() + Send),
) -> Result<()> {
    let slots = options.slots();
    let config = &parts.model.transformer.config;
    let cache = KvCache::unplaced(parts.device, config, slots, options.positions())?;
    let batch = Batch::new(parts, cache, slots)?;
    let mut running =
        Running { parts, options, batch, seats: Seats::new(options), members: Vec::new(), waited: 0 };
    running.report(inbox);
    ready();
    loop {
        let coming = inbox.wait(running.members.is_empty());
        running.hear(inbox, coming == Coming::Stop);
        running.let_in(inbox)?;
        running.prefill();
        running.step();
        running.let_out();
        running.report(inbox);
        let more = coming == Coming::More || inbox.peek(|_| ()).is_some() || !running.members.is_empty();
        if !more {
            return Ok(());
        }
    }
}

/// A request that runs, beside its sequence.
struct Member {
    id: usize,
    client: Client,
    admitted: Instant,
    /// Latents whose nearest tokens have been told.
    traced: usize,
    /// Nobody listens any more.
    deserted: bool,
    /// Why it was ended from outside.
    ended: Option<Ending>,
    failed: Option<Error>,
}

impl Member {
    /// One that runs, or waits no more.
    fn new(id: usize, client: Client, admitted: Instant) -> Self {
        Member { id, client, admitted, traced: 0, deserted: false, ended: None, failed: None }
    }

    fn tell(&mut self, update: Update) {
        self.deserted |= !self.client.news.tell(update);
    }
}

/// Requests that run, one sequence and one member each, in the order in which they were let in.
struct Running<'a, D: Device> {
    parts: &'a Parts<'a, D>,
    options: &'a SchedulerOptions,
    batch: Batch<'a, D>,
    seats: Seats,
    members: Vec<Member>,
    /// Steps for which prompts have waited to be read together.
    waited: usize,
}

/// Why a request is to end, if it is.
fn ending(client: &Client, stop: bool, now: Instant) -> Option<Ending> {
    if stop || Signals::is_set(&client.signals.cancel) {
        return Some(Ending::Cancelled);
    }
    client.deadline.is_some_and(|deadline| deadline <= now).then_some(Ending::Deadline)
}

impl<D: Device> Running<'_, D> {
    /// Does what is asked of requests that wait and that run.
    fn hear(&mut self, inbox: &Inbox, stop: bool) {
        let now = Instant::now();
        for Job { id, prepared, client, .. } in inbox.pull(|job| ending(&job.client, stop, now).is_some()) {
            let ended = ending(&client, stop, now);
            let mut sequence = Sequence::new(id, 0, prepared, now);
            sequence.stop();
            let member = Member { ended, ..Member::new(id, client, now) };
            say_goodbye(self.parts, sequence, member);
        }
        for (member, sequence) in self.members.iter_mut().zip(&mut self.batch.sequences) {
            let ended = ending(&member.client, stop || member.deserted, now);
            if ended.is_some() {
                member.ended = ended;
                sequence.stop();
            }
            sequence.end_reasoning |= Signals::is_set(&member.client.signals.end_reasoning);
        }
        self.let_out();
    }

    /// Lets the first of the queue in while there is room.
    fn let_in(&mut self, inbox: &Inbox) -> Result<()> {
        while self.members.len() < self.options.max_running {
            let first = inbox.peek(|job| (job.room, job.prepared.adapter, job.prepared.prompt_ids.clone()));
            let Some((room, adapter, prompt)) = first else { break };
            let Some(slot) = self.seats.take(&mut self.batch, room, adapter, &prompt)? else { break };
            let Some(Job { id, prepared, client, .. }) = inbox.pop() else { break };
            let admitted = Instant::now();
            self.batch.sequences.push(Sequence::new(id, slot, prepared, admitted));
            self.members.push(Member::new(id, client, admitted));
        }
        Ok(())
    }

    /// Reads a piece of the prompts, and begins those that are then complete.
    fn prefill(&mut self) {
        if self.gathers() {
            self.waited += 1;
            return;
        }
        self.waited = 0;
        let Running { batch, members, options, .. } = self;
        if batch.sequences.iter().all(|s| s.begun || s.done) {
            return;
        }
        match caught(|| batch.next_pieces(options.prefill_tokens)) {
            Ok(pieces) if pieces.is_empty() => {}
            Ok(pieces) => {
                let failed = apart(&pieces, |pieces: &[Piece]| {
                    let which: Vec<usize> = pieces.iter().map(|p| p.index).collect();
                    or_put_back(batch, &which, |batch| batch.take_in(pieces))
                });
                failed.into_iter().for_each(|(piece, error)| fail(batch, members, piece.index, error));
            }
            Err(error) => {
                let open = (0..members.len()).filter(|&i| !batch.sequences[i].prefilled);
                for i in open.collect::<Vec<usize>>() {
                    fail(batch, members, i, Error::other(error.to_string()));
                }
            }
        }
        let ready: Vec<usize> = batch.ready().into_iter().filter(|&i| !batch.sequences[i].done).collect();
        if ready.is_empty() {
            return;
        }
        let failed =
            apart(&ready, |which: &[usize]| caught(|| batch.begin(which, &mut |e| tell(members, e))));
        failed.into_iter().for_each(|(i, error)| fail(batch, members, i, error));
    }

    /// Whether prompts wait to be read together with others that may come.
    fn gathers(&self) -> bool {
        let (cache, sequences) = (&self.batch.cache, &self.batch.sequences);
        let waiting = || sequences.iter().filter(|s| !s.prefilled && !s.done);
        let tokens: usize = waiting().map(|s| s.request.prompt_ids.len()).sum();
        // One that is being read goes on.
        let untouched = waiting().all(|s| cache.len(s.slot) == 0);
        let others_run = sequences.iter().any(|s| s.begun && !s.done);
        let worth_it = tokens > 0 && tokens < self.options.prefill_tokens && untouched && others_run;
        worth_it && self.waited < self.options.gather_steps
    }

    /// One step of all that have begun.
    fn step(&mut self) {
        let Running { batch, members, .. } = self;
        for active in batch.active().chunks(FEW_ROWS) {
            let failed = apart(active, |active: &[usize]| {
                or_put_back(batch, active, |batch| {
                    batch.advance(active, None, &mut |event| tell(members, event))
                })
            });
            failed.into_iter().for_each(|(i, error)| fail(batch, members, i, error));
        }
        for (member, sequence) in members.iter_mut().zip(&batch.sequences) {
            for tokens in &sequence.trace[member.traced..] {
                member.traced += 1;
                member.tell(Update::Traced { number: member.traced, tokens: tokens.clone() });
            }
        }
    }

    /// Lets those out that are done.
    fn let_out(&mut self) {
        for i in (0..self.members.len()).rev().filter(|&i| self.batch.sequences[i].done).collect::<Vec<_>>() {
            let (sequence, member) = (self.batch.sequences.remove(i), self.members.remove(i));
            // Rows of a failed request are not kept: they may be the reason that it failed.
            let keeps = sequence.prefilled && member.failed.is_none();
            let kept = keeps.then(|| Kept {
                slot: sequence.slot,
                adapter: sequence.request.adapter,
                tokens: sequence.request.prompt_ids.clone(),
            });
            self.seats.leave(&mut self.batch, sequence.slot, kept);
            say_goodbye(self.parts, sequence, member);
        }
    }

    fn report(&self, inbox: &Inbox) {
        inbox.report(SchedulerLoad {
            running: self.members.len(),
            cache_positions: self.options.positions(),
            used_positions: self.seats.used(&self.batch),
            kept_positions: self.seats.kept(&self.batch),
            ..SchedulerLoad::default()
        });
    }
}

/// Runs a pass over the sequences `which`; where it fails, the cache is as before it.
fn or_put_back<D: Device>(
    batch: &mut Batch<'_, D>,
    which: &[usize],
    pass: impl FnOnce(&mut Batch<'_, D>) -> Result<()>,
) -> Result<()> {
    let held: Vec<(usize, usize)> =
        which.iter().map(|&i| batch.sequences[i].slot).map(|slot| (slot, batch.cache.len(slot))).collect();
    let done = caught(|| pass(batch));
    if done.is_err() {
        held.into_iter().for_each(|(slot, len)| batch.cache.truncate(slot, len));
    }
    done
}

fn fail<D: Device>(batch: &mut Batch<'_, D>, members: &mut [Member], i: usize, error: Error) {
    members[i].failed = Some(error);
    batch.sequences[i].stop();
}

/// Tells the client of an event of its request.
fn tell(members: &mut [Member], event: Event) {
    let (id, update) = match event {
        Event::Prefilled { request } => (request, Update::Prefilled),
        Event::Latent { request, number } => (request, Update::Latent { number }),
        Event::Token { request, id } => (request, Update::Token { id }),
        // It is told with the generation, when the request is let out.
        Event::Done { .. } => return,
    };
    if let Some(member) = members.iter_mut().find(|m| m.id == id) {
        member.tell(update);
    }
}

/// Tells the client of the end.
fn say_goodbye<D: Device>(parts: &Parts<'_, D>, sequence: Sequence, mut member: Member) {
    let update = match member.failed.take() {
        Some(error) => Update::Failed(error),
        None => match caught(|| completed(parts, sequence, &member)) {
            Ok(completed) => Update::Done(Box::new(completed)),
            Err(error) => Update::Failed(error),
        },
    };
    member.tell(update);
}

fn completed<D: Device>(parts: &Parts<'_, D>, sequence: Sequence, member: &Member) -> Result<Completed> {
    let since = |at: Instant| at.saturating_duration_since(member.client.submitted).as_secs_f64() * 1e3;
    let [first_latent, first_token] = sequence.firsts;
    let timings = Timings {
        queued_ms: since(member.admitted),
        prefilled_ms: sequence.begun.then(|| since(sequence.marks[0])),
        first_latent_ms: first_latent.map(since),
        first_token_ms: first_token.map(since),
        total_ms: since(sequence.marks[2]),
    };
    let shared_prompt_tokens = sequence.shared;
    let generation = finish(parts, sequence)?;
    let usage = Usage {
        prompt_tokens: generation.prompt_tokens,
        shared_prompt_tokens,
        reasoning: generation.n_latents,
        answer_tokens: generation.answer_tokens,
    };
    let own = if generation.finished { Ending::Finished } else { Ending::Limit };
    Ok(Completed { ending: member.ended.unwrap_or(own), generation, usage, timings })
}
