//! One way to write a block of the configuration: key, type, default and reference text side by side.

/// Declares configuration structs. Every field is a YAML key; the expression after `=` is its default, the doc comment its reference text.
///
/// The structs are `Serialize` (effective configuration), `Deserialize` (a missing key takes the default) and `Default`.
macro_rules! config_block {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$field_meta:meta])* $field:ident : $ty:ty = $default:expr, )*
        }
    )+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $ty, )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }
    )+};
}

pub(crate) use config_block;

/// A default text.
pub(crate) fn text(value: &str) -> String {
    value.to_owned()
}

/// A default list of texts.
pub(crate) fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

/// Lists that may be written as YAML list or as one comma-separated string.
pub(crate) mod csv_or_list {
    use serde::{Deserialize, Deserializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        List(Vec<String>),
        Csv(String),
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        Ok(match Option::<Form>::deserialize(deserializer)? {
            None => Vec::new(),
            Some(Form::List(items)) => items,
            Some(Form::Csv(text)) => super::split_csv(&text),
        })
    }
}

/// Splits on commas without trimming; the empty string is the empty list.
pub fn split_csv(text: &str) -> Vec<String> {
    if text.is_empty() { Vec::new() } else { text.split(',').map(str::to_owned).collect() }
}

/// A block whose presence switches something on: `key:` with nothing below it means "on, with defaults".
pub(crate) fn present_or_default<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de> + Default,
{
    use serde::Deserialize;
    Ok(Some(Option::<T>::deserialize(deserializer)?.unwrap_or_default()))
}
