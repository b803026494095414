//! Experiments: the paper's comparison, remade from one call on any model and data.
//!
//! [`table1`] trains the methods under one budget and tests them; [`factors`](fn@factors) asks finished checkpoints at
//! compression factors that they were trained on and others; [`cost`] counts the resources of the comparison at another
//! scale. A finished part is never done again: it is recognised by the files that it left.

pub mod compare;
mod comparison;
pub mod cost;
mod event;
mod existing;
mod factors;
mod figures;
mod forecast;
mod inputs;
mod jobs;
mod labels;
mod materials;
mod measure;
mod plan;
mod plot;
mod questions;
mod report;
mod run;
mod search;
mod settings;
mod train;
pub mod variants;
mod written;

pub use event::{ExperimentEvent, Listener};
pub use factors::{FactorRow, FactorsOptions, FactorsReport, FactorsSource, factors};
pub use figures::Figures;
pub use forecast::{Forecast, MethodForecast, forecast};
pub use inputs::{AVERAGE, Given, Machine, TestSet};
pub use plan::{Plan, Table1Options};
pub use report::{RateSearch, Row, Table1};
pub use run::table1;
