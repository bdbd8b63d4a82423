//! The closed sets of words: what a feature is, how values combine, what a row says, why an answer is what it is.
//!
//! Each word has one spelling, the one that is stored, documented and returned by SQL.

use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not one of: {known}")]
pub struct UnknownWord {
    /// The words that would have been accepted, comma separated.
    pub known: &'static str,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $first:ident = $first_word:literal $(, $(#[$word_doc:meta])* $rest:ident = $rest_word:literal)* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $first,
            $($(#[$word_doc])* $rest,)*
        }

        impl $name {
            pub const ALL: &'static [Self] = &[Self::$first $(, Self::$rest)*];

            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::$first => $first_word,
                    $(Self::$rest => $rest_word,)*
                }
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text {
                    $first_word => Ok(Self::$first),
                    $($rest_word => Ok(Self::$rest),)*
                    _ => Err(UnknownWord { known: concat!($first_word $(, ", ", $rest_word)*) }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// What a feature is.
    Kind { Flag = "flag", Config = "config", Quota = "quota", Allocation = "allocation", Rate = "rate" }
}

impl Kind {
    /// Whether the feature's value is an allowance that usage is compared with.
    pub fn is_metered(self) -> bool {
        matches!(self, Self::Quota | Self::Allocation | Self::Rate)
    }
}

words! {
    /// How the values of several subscriptions in force become one.
    Combine {
        Any = "any",
        /// Over every subscription that lists the feature, also those that list it as off.
        All = "all",
        HighestRank = "highest_rank",
        MaxPlusAddons = "max_plus_addons",
        Sum = "sum",
        Max = "max",
        /// Over every subscription that lists the feature, also those that list an amount of zero.
        Min = "min",
    }
}

impl Combine {
    pub fn default_for(kind: Kind) -> Self {
        Self::allowed_for(kind)[0]
    }

    /// The first is the default.
    pub fn allowed_for(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::Flag => &[Self::Any, Self::All],
            Kind::Config => &[Self::HighestRank],
            Kind::Quota | Kind::Allocation | Kind::Rate => &[Self::MaxPlusAddons, Self::Sum, Self::Max, Self::Min],
        }
    }
}

words! {
    /// Whether a plan stands alone or comes on top.
    PlanKind { Base = "base", Addon = "addon" }
}

words! {
    /// What a subscription's segment says about itself.
    Status { Trialing = "trialing", Active = "active", PastDue = "past_due", Canceled = "canceled" }
}

words! {
    /// What an override does. `deny` beats `set` beats `add`.
    OverrideMode { Set = "set", Add = "add", Deny = "deny" }
}

words! {
    /// Why a decision is what it is.
    Reason {
        Granted = "granted",
        NotGranted = "not_granted",
        UnknownAccount = "unknown_account",
        Blocked = "blocked",
        OverrideDenied = "override_denied",
        Expired = "expired",
        LimitExceeded = "limit_exceeded",
        RateLimited = "rate_limited",
        ClockRollback = "clock_rollback",
        BundleStale = "bundle_stale",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back() {
        fn check<T: Copy + PartialEq + fmt::Debug + fmt::Display + FromStr<Err = UnknownWord>>(all: &[T]) {
            for word in all {
                assert_eq!(word.to_string().parse(), Ok(*word));
            }
        }
        check(Kind::ALL);
        check(Combine::ALL);
        check(PlanKind::ALL);
        check(Status::ALL);
        check(OverrideMode::ALL);
        check(Reason::ALL);
    }

    #[test]
    fn an_unknown_word_names_the_known_ones() {
        assert_eq!("Base".parse::<PlanKind>().unwrap_err().to_string(), "is not one of: base, addon");
        assert!("".parse::<Kind>().is_err());
    }

    #[test]
    fn combine_defaults_by_kind() {
        assert_eq!(Combine::default_for(Kind::Flag), Combine::Any);
        assert_eq!(Combine::default_for(Kind::Config), Combine::HighestRank);
        for kind in Kind::ALL.iter().filter(|kind| kind.is_metered()) {
            assert_eq!(Combine::default_for(*kind), Combine::MaxPlusAddons);
        }
    }

    #[test]
    fn only_amounts_are_metered() {
        let metered: Vec<_> = Kind::ALL.iter().filter(|kind| kind.is_metered()).map(|kind| kind.as_str()).collect();
        assert_eq!(metered, ["quota", "allocation", "rate"]);
    }
}
