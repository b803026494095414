//! Setters of options, so that a user of the crate can build them while fields may be added.

/// Gives options a method for each field that returns them with the field set; after `into` the methods take whatever
/// converts into the field.
macro_rules! setters {
    ($options:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        impl $options {
            $(
                #[doc = concat!("The same with `", stringify!($field), "` set.")]
                #[must_use]
                pub fn $field(mut self, $field: $kind) -> Self {
                    self.$field = $field;
                    self
                }
            )*
        }
    };
    ($options:ident into { $($field:ident: $kind:ty),* $(,)? }) => {
        impl $options {
            $(
                #[doc = concat!("The same with `", stringify!($field), "` set.")]
                #[must_use]
                pub fn $field(mut self, $field: impl Into<$kind>) -> Self {
                    self.$field = $field.into();
                    self
                }
            )*
        }
    };
}
