//! Questions, and their evaluation on a checkpoint, done once.

use std::path::{Path, PathBuf};
use std::sync::Once;

use super::event::{ExperimentEvent, Listener};
use super::inputs::Machine;
use super::measure::{Measured, Setting, checksum, kept, measure};
use crate::Result;
use crate::data::{Sample, load_questions};
use crate::device::{Device, DeviceTask, run_on_device};
use crate::files::weights::Access;
use crate::infer::Loaded;
use crate::model::open::Additions;
use crate::model::prompt::inference;
use crate::train::long;

/// A data set to evaluate on.
pub(super) struct Questions {
    pub samples: Vec<Sample>,
    pub checksum: u32,
    path: PathBuf,
    /// Whether those that are longer than a model were told of.
    told: Once,
}

impl Questions {
    pub fn load(path: &Path) -> Result<Self> {
        let samples = load_questions(path)?;
        Ok(Questions { checksum: checksum(&samples), samples, path: path.to_owned(), told: Once::new() })
    }

    /// Warns, once, of prompts that leave a model no room for a thought and an answer.
    fn tell_of_long_ones<D: Device>(&self, loaded: &Loaded<D>, speed: &str) -> Result<()> {
        const LEAST: usize = 2;
        if self.told.is_completed() {
            return Ok(());
        }
        let opened = &loaded.opened;
        let positions = |sample: &Sample| {
            let prompt = inference(&opened.tokenizer, opened.separator, &sample.question, speed)?;
            Ok(prompt.len() + LEAST)
        };
        let mut told = Ok(());
        self.told.call_once(|| {
            told = long::warn(&self.path, &opened.model.transformer.config, &self.samples, LEAST, positions);
        });
        told
    }
}

/// A checkpoint, questions, and the settings of the evaluation.
pub(super) struct Asked<'a> {
    pub model: &'a Path,
    pub checkpoint: PathBuf,
    pub questions: &'a Questions,
    pub file: PathBuf,
    pub setting: Setting,
    pub batch: usize,
}

impl Asked<'_> {
    /// The figures, measured unless they are kept; also returns whether they were measured.
    ///
    /// # Errors
    /// Errors of loading and generating; [`Error::Io`](crate::Error::Io) naming the file of the figures.
    pub fn ask(
        &self,
        job: usize,
        name: &str,
        machine: &Machine,
        threads: usize,
        on_event: &Listener<'_>,
    ) -> Result<(bool, Measured)> {
        if let Some(measured) = kept(&self.file, &self.setting) {
            return Ok((false, measured));
        }
        on_event(ExperimentEvent::Begun { job, name: name.to_owned() });
        let task = Ask { asked: self, access: Access::unless(machine.no_mmap), job, on_event };
        let measured = run_on_device(machine.device.for_training(), machine.dtype, threads, task)?;
        Ok((true, measured))
    }
}

struct Ask<'a> {
    asked: &'a Asked<'a>,
    access: Access,
    job: usize,
    on_event: &'a Listener<'a>,
}

impl DeviceTask for Ask<'_> {
    type Output = Measured;

    fn run<D: Device>(self, device: D) -> Result<Measured> {
        let q = self.asked;
        let samples = &q.questions.samples;
        let additions = Additions { access: self.access, ..Additions::default() };
        let loaded = Loaded::with_choices(device, q.model, Some(&q.checkpoint), None, &additions)?;
        q.questions.tell_of_long_ones(&loaded, &q.setting.compression_factor)?;
        let (job, of) = (self.job, samples.len() as u64);
        measure(&loaded, samples, &q.setting, q.batch, &q.file, &mut |done| {
            (self.on_event)(ExperimentEvent::At { job, done: done as u64, of, loss: None });
        })
    }
}
