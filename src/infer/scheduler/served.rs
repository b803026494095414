//! A model that a scheduler runs requests on, whichever device it is on.

use super::inbox::Inbox;
use super::options::SchedulerOptions;
use super::worker;
use crate::Result;
use crate::device::Device;
use crate::infer::adapters::AdapterIndex;
use crate::infer::loaded::Loaded;
use crate::infer::needs;
use crate::infer::request::Request;
use crate::infer::sequence::Prepared;

/// A model that a scheduler runs requests on.
pub(crate) trait Served: Send + Sync {
    /// A request as it will run, under `own` if it names no adapter: its tokens, and where it begins.
    fn prepare(&self, request: &Request, own: AdapterIndex) -> Result<Prepared>;

    /// Runs the requests of an inbox until it is closed; `ready` is called when they can come.
    fn serve(
        &self,
        options: &SchedulerOptions,
        inbox: &Inbox,
        ready: &mut (dyn FnMut() + Send),
    ) -> Result<()>;
}

impl<D: Device> Served for Loaded<D> {
    fn prepare(&self, request: &Request, own: AdapterIndex) -> Result<Prepared> {
        self.fitted(request, own)
    }

    fn serve(
        &self,
        options: &SchedulerOptions,
        inbox: &Inbox,
        ready: &mut (dyn FnMut() + Send),
    ) -> Result<()> {
        let (positions, tokens) = (options.positions(), options.prefill_tokens);
        self.device.reserve(&needs::scheduler(&self.device, &self.models(), positions, tokens))?;
        let parts = self.parts();
        self.device.scope(|| worker::run(&parts, options, inbox, ready))
    }
}
