//! Which adapter each sequence of a batch runs under, and the model that it makes of the decoder they share.

use std::collections::BTreeMap;

use crate::Result;
use crate::device::Device;
use crate::model::ColarModel;
use crate::model::transformer::RowAdapters;

/// The place of an adapter among those of a loaded model; `None` is the model without them.
pub(super) type AdapterIndex = Option<usize>;

/// A model and what adapters make of it.
pub(super) struct Models<'a, D: Device> {
    pub base: &'a ColarModel<D>,
    /// By name; each has the base's decoder, and an adapter, a latent head and thoughts of its own.
    pub adapted: Vec<(&'a str, &'a ColarModel<D>)>,
}

impl<'a, D: Device> Models<'a, D> {
    /// The model under an adapter.
    pub(super) fn of(&self, adapter: AdapterIndex) -> &'a ColarModel<D> {
        adapter.map_or(self.base, |i| self.adapted[i].1)
    }

    /// The adapters of the rows of a pass, given each row's; `None` where the model has no adapters at all.
    pub(super) fn of_rows(
        &self,
        device: &D,
        rows: impl ExactSizeIterator<Item = AdapterIndex>,
    ) -> Result<Option<RowAdapters<'a, D>>> {
        if self.adapted.is_empty() {
            return Ok(None);
        }
        let total = rows.len();
        let groups = by_adapter(rows.zip(0..)).into_iter().filter_map(|(adapter, rows)| {
            let (_, model) = self.adapted[adapter?];
            Some((&model.transformer, &model.params, rows))
        });
        RowAdapters::new(device, total, groups).map(Some)
    }
}

/// The items of each adapter, in their order.
pub(super) fn by_adapter<T>(all: impl Iterator<Item = (AdapterIndex, T)>) -> BTreeMap<AdapterIndex, Vec<T>> {
    let mut groups: BTreeMap<AdapterIndex, Vec<T>> = BTreeMap::new();
    all.for_each(|(adapter, item)| groups.entry(adapter).or_default().push(item));
    groups
}
