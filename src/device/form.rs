//! The form in which a device computes rows that stand side by side.

/// Rows that every device computes as few: a product reads its weights once for all of them.
pub const FEW_ROWS: usize = 16;

/// How products and attention are computed, where few rows are best done otherwise than many.
///
/// The two ways add up in different orders, so [by count](RowForm::ByCount) rows have other bits among more than
/// [`FEW_ROWS`] than alone. Those of a device in the form [`Many`](RowForm::Many) ([`Device::in_form`](super::Device::in_form))
/// have the same bits in every call: on `cpu` always, on CUDA devices as far as the driver's library chooses its way
/// without regard to the number of rows, which it does not promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RowForm {
    /// Whichever way is faster for the number of rows.
    #[default]
    ByCount,
    /// That of many rows for however few: the end of a prompt is computed as its beginning.
    Many,
}
