//! Reasons for which a request is refused, as records and problem documents tell them.

/// Declares an enum of reasons: each with the word of access records and `Cache-Status`, and the text for people.
macro_rules! refusal_reasons {
    ($(#[$doc:meta])* pub enum $enum:ident;
     $($(#[$reason_doc:meta])* $name:ident => $word:literal, $text:literal;)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum $enum {
            $($(#[$reason_doc])* #[error($text)] $name,)*
        }

        impl $enum {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The reason as one word, for access records and `Cache-Status`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// The reason, for people.
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

pub(crate) use refusal_reasons;
