//! From rows of the schema to structs and a table of keys.

use toml_edit::Value;

use crate::{Config, Limits, Setting};

/// A key of imp.conf, as the generic code sees it.
pub struct Key {
    /// `[section]` it stands in.
    pub section: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// What it does: the field's documentation, a line a line.
    pub docs: &'static [&'static str],
    /// Bounds of a number.
    pub limits: Option<Limits>,
    pub(crate) expected: fn(Option<Limits>) -> String,
    pub(crate) get: fn(&Config) -> String,
    pub(crate) set: fn(&mut Config, &Value, Option<Limits>) -> bool,
}

impl Key {
    /// Every key, in the order of the schema.
    pub fn all() -> &'static [Self] {
        crate::schema::KEYS
    }

    /// `section.name`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// What a user may write.
    pub fn expected(&self) -> String {
        (self.expected)(self.limits)
    }

    /// The value in `config`, as TOML.
    pub fn value(&self, config: &Config) -> String {
        (self.get)(config)
    }

    /// Stores `value`; `false`, with `config` unchanged, when its type or size is not the expected one.
    pub(crate) fn store(&self, config: &mut Config, value: &Value) -> bool {
        (self.set)(config, value, self.limits)
    }
}

/// Writes `value` to `field` if it has the field's type and lies within `limits`.
pub(crate) fn assign<T: Setting>(field: &mut T, value: &Value, limits: Option<Limits>) -> bool {
    let Some(new) = T::from_toml(value) else { return false };
    if let (Some(limits), Some(number)) = (limits, new.number())
        && !(limits.min..=limits.max).contains(&number)
    {
        return false;
    }
    *field = new;
    true
}

/// Declares [`Config`], a struct a section, and the table of keys.
///
/// A row is `name: type = default;` or `name: type = default, in min..=max;` under its documentation.
macro_rules! schema {
    ($(
        $(#[doc = $section_doc:literal])+
        $section:ident: $Section:ident {
            $( $(#[doc = $doc:literal])+
               $key:ident: $type:ty = $default:expr $(, in $min:literal..=$max:literal)?; )+
        }
    )+) => {
        /// Every setting, a field a section. [`Config::default`] is what an empty file gives.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Config {
            $( $(#[doc = $section_doc])+ pub $section: $Section, )+
        }

        $(
            $(#[doc = $section_doc])+
            #[derive(Clone, Debug, PartialEq)]
            pub struct $Section {
                $( $(#[doc = $doc])+ pub $key: $type, )+
            }

            impl Default for $Section {
                fn default() -> Self {
                    Self { $( $key: $default, )+ }
                }
            }
        )+

        /// Sections in order, with their documentation.
        pub(crate) const SECTIONS: &[(&str, &[&str])] =
            &[$( (stringify!($section), &[$( $section_doc ),+]) ),+];

        pub(crate) const KEYS: &[$crate::Key] = &[$($(
            $crate::Key {
                section: stringify!($section),
                name: stringify!($key),
                docs: &[$( $doc ),+],
                limits: $crate::table::limits!($($min, $max)?),
                expected: <$type as $crate::Setting>::expected,
                get: |config| $crate::Setting::to_toml(&config.$section.$key),
                set: |config, value, limits| {
                    $crate::table::assign(&mut config.$section.$key, value, limits)
                },
            },
        )+)+];
    };
}
pub(crate) use schema;

macro_rules! limits {
    () => {
        None
    };
    ($min:literal, $max:literal) => {
        Some($crate::Limits { min: $min as f64, max: $max as f64 })
    };
}
pub(crate) use limits;
