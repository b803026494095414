//! Choices by the names that they have in files and on the command line, for those who have a name as text.

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as NameError, StrDeserializer};

use crate::{Error, Result};

/// The choice of this name for the option `option`.
///
/// # Errors
/// [`Error::Usage`] naming the option, with the names that there are.
pub fn named<'de, T: Deserialize<'de>>(option: &str, name: &'de str) -> Result<T> {
    let name: StrDeserializer<'de, NameError> = name.into_deserializer();
    T::deserialize(name).map_err(|e| Error::usage(format!("`{option}`: {e}")))
}

/// Makes a choice, that of an option of this name, from its own name.
macro_rules! from_name {
    ($choice:ident, $option:literal) => {
        impl std::str::FromStr for $choice {
            type Err = $crate::Error;

            #[doc = concat!("The `", $option, "` of this name, which is that in files and on the command line.")]
            fn from_str(name: &str) -> $crate::Result<Self> {
                $crate::names::named($option, name)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use crate::{ComputeDtype, DeviceKind, LoraMode, Method, Template};

    #[test]
    fn a_choice_has_the_name_of_the_command_line() {
        assert_eq!("cuda-host".parse::<DeviceKind>().unwrap(), DeviceKind::CudaHost);
        assert_eq!("bf16".parse::<ComputeDtype>().unwrap(), ComputeDtype::Bf16);
        assert_eq!("apart".parse::<LoraMode>().unwrap(), LoraMode::Apart);
        assert_eq!("chat".parse::<Template>().unwrap(), Template::Chat);
        for method in Method::ALL {
            assert_eq!(method.name().parse::<Method>().unwrap(), method);
        }
        let error = "gpu".parse::<DeviceKind>().unwrap_err();
        assert_eq!(
            (error.exit_code(), error.to_string().as_str()),
            (2, "`device`: unknown variant `gpu`, expected one of `auto`, `cpu`, `cuda`, `cuda-host`")
        );
    }
}
