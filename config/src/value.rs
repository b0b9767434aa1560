//! The types a key can have: how each is read from TOML, described, and written.

use std::path::PathBuf;

use toml_edit::Value;

/// Inclusive bounds of a number, as its key declares them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Smallest accepted value.
    pub min: f64,
    /// Largest accepted value.
    pub max: f64,
}

/// A type that a key can have.
pub trait Setting: Clone {
    /// The value, or `None` for one of another type or outside what the type can hold.
    fn from_toml(value: &Value) -> Option<Self>;
    /// What a user may write: `true or false`, `one of "auto", "never"`.
    fn expected(limits: Option<Limits>) -> String;
    /// The value as TOML.
    fn to_toml(&self) -> String;
    /// The value as a number, for limits.
    fn number(&self) -> Option<f64> {
        None
    }
}

impl Setting for bool {
    fn from_toml(value: &Value) -> Option<Self> {
        value.as_bool()
    }
    fn expected(_: Option<Limits>) -> String {
        "true or false".into()
    }
    fn to_toml(&self) -> String {
        self.to_string()
    }
}

macro_rules! integers {
    ($($int:ty),*) => {$(
        impl Setting for $int {
            fn from_toml(value: &Value) -> Option<Self> {
                Self::try_from(value.as_integer()?).ok()
            }
            fn expected(limits: Option<Limits>) -> String {
                let (min, max) = limits
                    .map_or((f64::from(Self::MIN), f64::from(Self::MAX)), |l| (l.min, l.max));
                format!("a whole number from {min} to {max}")
            }
            fn to_toml(&self) -> String {
                self.to_string()
            }
            fn number(&self) -> Option<f64> {
                Some(f64::from(*self))
            }
        }
    )*};
}
integers!(i32, u32);

impl Setting for f32 {
    /// Whole numbers are accepted; NaN, infinities and what overflows `f32` are not.
    fn from_toml(value: &Value) -> Option<Self> {
        let wide = value.as_float().or_else(|| value.as_integer().map(|i| i as f64))?;
        Some(wide as f32).filter(|narrow| narrow.is_finite())
    }
    fn expected(limits: Option<Limits>) -> String {
        match limits {
            Some(Limits { min, max }) => format!("a number from {min} to {max}"),
            None => "a finite number".into(),
        }
    }
    fn to_toml(&self) -> String {
        format!("{self:?}")
    }
    fn number(&self) -> Option<f64> {
        Some(f64::from(*self))
    }
}

impl Setting for PathBuf {
    /// Taken as written: no `~` or variable is expanded.
    fn from_toml(value: &Value) -> Option<Self> {
        value.as_str().map(PathBuf::from)
    }
    fn expected(_: Option<Limits>) -> String {
        "a path in quotes".into()
    }
    fn to_toml(&self) -> String {
        Value::from(self.to_string_lossy().as_ref()).to_string()
    }
}

/// Declares an enum written as one of a list of strings: `Variant = "word"`.
macro_rules! words {
    (
        $(#[$meta:meta])*
        $name:ident { $( $(#[$variant_meta:meta])* $variant:ident = $word:literal, )+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $( $(#[$variant_meta])* $variant, )+
        }

        impl $name {
            /// Every value with its spelling.
            pub const ALL: &[(Self, &str)] = &[$( (Self::$variant, $word) ),+];

            /// The spelling in imp.conf.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )+
                }
            }
        }

        impl $crate::Setting for $name {
            fn from_toml(value: &toml_edit::Value) -> Option<Self> {
                let word = value.as_str()?;
                Self::ALL.iter().find(|(_, spelling)| *spelling == word).map(|(value, _)| *value)
            }
            fn expected(_: Option<$crate::Limits>) -> String {
                let words: Vec<_> = Self::ALL.iter().map(|(_, w)| format!("{w:?}")).collect();
                format!("one of {}", words.join(", "))
            }
            fn to_toml(&self) -> String {
                format!("{:?}", self.as_str())
            }
        }
    };
}
pub(crate) use words;
