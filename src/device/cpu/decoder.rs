//! No decoder of whole steps: a step's operations follow each other without a gap here.

use super::CpuDevice;
use crate::Result;
use crate::device::decoder::{DecoderModel, DecoderOps, NoDecoder};

impl DecoderOps for CpuDevice {
    type Decoder<'a> = NoDecoder;

    fn decoder<'a>(&'a self, _: DecoderModel<'a, Self>, _: usize) -> Result<Option<NoDecoder>> {
        Ok(None)
    }
}
