//! The accounts that a memo holds and what was answered about them, laid out so that a repeated question reads one cache line.

use super::load::Account;
use entitlements_model::time::Time;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use hashbrown::hash_table::{Entry, HashTable};
use std::hash::{BuildHasher, Hash, Hasher};

/// An account as a caller names it.
#[derive(Clone, Copy)]
pub enum AccountName<'a> {
    Text(&'a [u8]),
    Uuid([u8; 16]),
    Bigint(i64),
}

impl AccountName<'_> {
    /// The account's key: the canonical text of the value.
    pub fn to_key(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.to_vec(),
            Self::Bigint(number) => number.to_string().into_bytes(),
            Self::Uuid(bytes) => {
                let mut key = Vec::with_capacity(36);
                for (place, byte) in bytes.iter().enumerate() {
                    if matches!(place, 4 | 6 | 8 | 10) {
                        key.push(b'-');
                    }
                    for digit in [byte >> 4, byte & 0xF] {
                        key.push(b"0123456789abcdef"[usize::from(digit)]);
                    }
                }
                key
            }
        }
    }
}

/// A name in a form that is compared in a few instructions; for names of at most 40 bytes, which a uuid's text fits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShortName {
    words: [u64; 5],
    /// Type and length.
    form: u32,
}

impl ShortName {
    #[inline(always)]
    pub fn of(name: AccountName<'_>) -> Option<Self> {
        match name {
            AccountName::Text(text) => Some(Self { words: words(text)?, form: text.len() as u32 }),
            AccountName::Uuid(bytes) => Some(Self { words: [word(&bytes, 0), word(&bytes, 8), 0, 0, 0], form: 1 << 16 }),
            AccountName::Bigint(number) => Some(Self { words: [number as u64, 0, 0, 0, 0], form: 2 << 16 }),
        }
    }
}

#[inline(always)]
fn word(bytes: &[u8], from: usize) -> u64 {
    u64::from_ne_bytes(bytes[from..from + 8].try_into().expect("eight bytes"))
}

/// Words that differ for different texts of one length: together they hold every byte, some of them twice. Loaded straight
/// from the text, since bytes that were just copied elsewhere would stall the loads.
#[inline(always)]
fn words(text: &[u8]) -> Option<[u64; 5]> {
    let half = |from: usize| u64::from(u32::from_ne_bytes(text[from..from + 4].try_into().expect("four bytes")));
    let length = text.len();
    match length {
        0 => Some([0; 5]),
        1..=3 => {
            let byte = |at: usize| u64::from(text[at]);
            Some([byte(0) | byte(length / 2) << 8 | byte(length - 1) << 16, 0, 0, 0, 0])
        }
        4..=7 => Some([half(0) | half(length - 4) << 32, 0, 0, 0, 0]),
        8..=16 => Some([word(text, 0), word(text, length - 8), 0, 0, 0]),
        17..=24 => Some([word(text, 0), word(text, 8), word(text, length - 8), 0, 0]),
        25..=40 => Some([word(text, 0), word(text, 8), word(text, 16), word(text, length - 16), word(text, length - 8)]),
        _ => None,
    }
}

impl Hash for ShortName {
    #[inline(always)]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [first, second, rest @ ..] = self.words;
        state.write_u64(first);
        state.write_u64(second);
        // Numbers, uuids and most keys end here, which is worth some nanoseconds.
        if rest != [0; 3] {
            rest.into_iter().for_each(|word| state.write_u64(word));
        }
        state.write_u32(self.form);
    }
}

/// A feature's place in the memo, valid for the memo's present generation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FeatureSlot(pub u32);

impl FeatureSlot {
    /// The bit that stands for the feature in a remembered account; features past the 32nd have none and are resolved anew.
    #[inline(always)]
    fn bit(self) -> u32 {
        if self.0 < u32::BITS { 1 << self.0 } else { 0 }
    }
}

/// One account's answers: one cache line.
#[repr(align(64))]
struct Remembered {
    /// The name, laid out without the padding that ShortName has.
    words: [u64; 5],
    form: u32,
    /// The account's place among the accounts.
    account: u32,
    /// The answers hold for times before this.
    until: Time,
    /// A bit a feature: answered, and the answer.
    known: u32,
    granted: u32,
}

const _: () = assert!(size_of::<Remembered>() == 64);

impl Remembered {
    #[inline(always)]
    fn name(&self) -> ShortName {
        ShortName { words: self.words, form: self.form }
    }
}

#[derive(Default)]
pub struct Answers {
    hasher: RandomState,
    remembered: HashTable<Remembered>,
    /// Accounts with names that are too long for a ShortName, by key, and until when their rows hold.
    long_named: HashMap<Box<[u8]>, (u32, Time), RandomState>,
    accounts: Vec<Account>,
}

impl Answers {
    pub fn clear(&mut self) {
        /// Tables with room for more than this are given back rather than wiped.
        const WORTH_KEEPING: usize = 256;
        if self.remembered.capacity() > WORTH_KEEPING {
            self.remembered = HashTable::new();
            self.accounts = Vec::new();
        } else {
            self.remembered.clear();
            self.accounts.clear();
        }
        self.long_named.clear();
    }

    /// The answer given before, if it holds at `now`.
    #[inline(always)]
    pub fn recall(&self, name: AccountName<'_>, slot: FeatureSlot, now: Time) -> Option<bool> {
        let name = ShortName::of(name)?;
        let remembered = self.remembered.find(self.hasher.hash_one(name), |remembered| remembered.name() == name)?;
        (now < remembered.until && remembered.known & slot.bit() != 0).then_some(remembered.granted & slot.bit() != 0)
    }

    /// Keeps an answer about an account that is here.
    pub fn note(&mut self, name: AccountName<'_>, slot: FeatureSlot, granted: bool) {
        let Some(name) = ShortName::of(name) else {
            return;
        };
        if let Some(remembered) =
            self.remembered.find_mut(self.hasher.hash_one(name), |remembered| remembered.name() == name)
        {
            remembered.known |= slot.bit();
            remembered.granted |= if granted { slot.bit() } else { 0 };
        }
    }

    /// The account, if it is here with rows that hold at `now`.
    pub fn account(&self, name: AccountName<'_>, now: Time) -> Option<&Account> {
        let (account, until) = match ShortName::of(name) {
            Some(name) => {
                let remembered = self.remembered.find(self.hasher.hash_one(name), |remembered| remembered.name() == name)?;
                (remembered.account, remembered.until)
            }
            None => *self.long_named.get(name.to_key().as_slice())?,
        };
        (now < until).then(|| &self.accounts[account as usize])
    }

    /// Keeps an account whose rows hold until `until`, in place of what was known of it. Returns the bytes it takes, roughly.
    pub fn keep(&mut self, name: AccountName<'_>, account: Account, until: Time) -> usize {
        let place = u32::try_from(self.accounts.len()).expect("entitlements.memo_size does not hold so many accounts");
        let size = account.size() + size_of::<Account>();
        self.accounts.push(account);
        match ShortName::of(name) {
            Some(name) => {
                let hasher = &self.hasher;
                let remembered =
                    Remembered { words: name.words, form: name.form, account: place, until, known: 0, granted: 0 };
                let is_it = |other: &Remembered| other.name() == name;
                match self.remembered.entry(hasher.hash_one(name), is_it, |other| hasher.hash_one(other.name())) {
                    Entry::Occupied(mut entry) => *entry.get_mut() = remembered,
                    Entry::Vacant(entry) => {
                        entry.insert(remembered);
                    }
                }
                size + size_of::<Remembered>() * 8 / 7
            }
            None => {
                let key = name.to_key();
                let length = key.len();
                self.long_named.insert(key.into(), (place, until));
                size + length + size_of::<(Box<[u8]>, u32, Time)>()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_one_length_that_differ_in_one_byte_have_different_words() {
        for length in 0..=40 {
            let text = vec![b'x'; length];
            for place in 0..length {
                let mut other = text.clone();
                other[place] = b'y';
                assert_ne!(words(&text), words(&other), "length {length}, byte {place}");
            }
        }
        assert_eq!(words(&[b'x'; 41]), None);
    }

    #[test]
    fn a_uuid_has_its_canonical_text_as_key() {
        let bytes = std::array::from_fn(|place| (place * 17) as u8);
        assert_eq!(AccountName::Uuid(bytes).to_key(), b"00112233-4455-6677-8899-aabbccddeeff");
    }
}
