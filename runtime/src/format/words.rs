//! Operator parameters as a flat list of `u32` words, with one declaration for reader and writer.

/// A cursor over little-endian `u32` words.
#[derive(Clone, Copy)]
pub struct ReadWords<'m> {
    bytes: &'m [u8],
}

impl<'m> ReadWords<'m> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'m [u8]) -> Self {
        Self { bytes }
    }

    /// The next word, or `None` at the end.
    #[inline(always)]
    pub fn word(&mut self) -> Option<u32> {
        let (head, tail) = self.bytes.split_first_chunk::<4>()?;
        self.bytes = tail;
        Some(u32::from_le_bytes(*head))
    }
}

/// Where words are written to: any closure taking one word.
pub trait WriteWords {
    /// Appends one word.
    fn word(&mut self, word: u32);
}

impl<F: FnMut(u32)> WriteWords for F {
    fn word(&mut self, word: u32) {
        self(word)
    }
}

/// A value with a fixed number of words.
///
/// Reading is inlined throughout: where the number of bytes was compared before, no word is compared again.
pub trait Word: Sized {
    /// Words used.
    const WORDS: usize;
    /// Reads the value; `None` when words are missing or not a value of this type.
    fn read(words: &mut ReadWords<'_>) -> Option<Self>;
    /// Writes the value.
    fn write(&self, out: &mut dyn WriteWords);
    /// Calls `visit` for every [`Blob`] inside, so that tools can move weights.
    fn each_blob(&mut self, visit: &mut dyn FnMut(&mut Blob)) {
        let _ = visit;
    }
}

impl Word for u32 {
    const WORDS: usize = 1;
    #[inline(always)]
    fn read(words: &mut ReadWords<'_>) -> Option<Self> {
        words.word()
    }
    fn write(&self, out: &mut dyn WriteWords) {
        out.word(*self)
    }
}

impl Word for i32 {
    const WORDS: usize = 1;
    #[inline(always)]
    fn read(words: &mut ReadWords<'_>) -> Option<Self> {
        words.word().map(|w| w as i32)
    }
    fn write(&self, out: &mut dyn WriteWords) {
        out.word(*self as u32)
    }
}

impl Word for bool {
    const WORDS: usize = 1;
    #[inline(always)]
    fn read(words: &mut ReadWords<'_>) -> Option<Self> {
        match words.word()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
    fn write(&self, out: &mut dyn WriteWords) {
        out.word(u32::from(*self))
    }
}

impl Word for u64 {
    const WORDS: usize = 2;
    #[inline(always)]
    fn read(words: &mut ReadWords<'_>) -> Option<Self> {
        let low = words.word()?;
        let high = words.word()?;
        Some(u64::from(low) | u64::from(high) << 32)
    }
    fn write(&self, out: &mut dyn WriteWords) {
        out.word(*self as u32);
        out.word((*self >> 32) as u32);
    }
}

impl Word for i64 {
    const WORDS: usize = 2;
    #[inline(always)]
    fn read(words: &mut ReadWords<'_>) -> Option<Self> {
        u64::read(words).map(|v| v as i64)
    }
    fn write(&self, out: &mut dyn WriteWords) {
        (*self as u64).write(out)
    }
}

impl<T: Word + Copy + Default, const N: usize> Word for [T; N] {
    const WORDS: usize = N * T::WORDS;
    #[inline(always)]
    fn read(words: &mut ReadWords<'_>) -> Option<Self> {
        let mut array = [T::default(); N];
        for item in &mut array {
            *item = T::read(words)?;
        }
        Some(array)
    }
    fn write(&self, out: &mut dyn WriteWords) {
        for item in self {
            item.write(out);
        }
    }
}

/// A byte range of the `Weights` section. `bytes == 0` stands for "not there".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blob {
    /// Offset in the section, a multiple of 16.
    pub offset: u32,
    /// Length.
    pub bytes: u32,
}

impl Blob {
    /// The absent blob.
    pub const NONE: Blob = Blob { offset: 0, bytes: 0 };

    /// Whether there is data.
    pub fn is_some(&self) -> bool {
        self.bytes != 0
    }

    /// The bytes of this blob in the `Weights` section; empty when absent, `None` when out of range.
    pub fn of<'m>(&self, weights: &'m [u8]) -> Option<&'m [u8]> {
        weights.get(self.offset as usize..)?.get(..self.bytes as usize)
    }
}

impl Word for Blob {
    const WORDS: usize = 2;
    #[inline(always)]
    fn read(words: &mut ReadWords<'_>) -> Option<Self> {
        Some(Blob { offset: words.word()?, bytes: words.word()? })
    }
    fn write(&self, out: &mut dyn WriteWords) {
        out.word(self.offset);
        out.word(self.bytes);
    }
    fn each_blob(&mut self, visit: &mut dyn FnMut(&mut Blob)) {
        visit(self);
    }
}

/// Declares a parameter record: a struct, its word count, reader and writer, in the order of the fields.
macro_rules! op_params {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }

        impl $crate::format::Word for $name {
            const WORDS: usize = 0 $(+ <$ty as $crate::format::Word>::WORDS)*;
            #[inline(always)]
            fn read(words: &mut $crate::format::ReadWords<'_>) -> Option<Self> {
                Some(Self { $($field: <$ty as $crate::format::Word>::read(words)?,)* })
            }
            fn write(&self, out: &mut dyn $crate::format::WriteWords) {
                $($crate::format::Word::write(&self.$field, out);)*
            }
            fn each_blob(&mut self, visit: &mut dyn FnMut(&mut $crate::format::Blob)) {
                $($crate::format::Word::each_blob(&mut self.$field, visit);)*
            }
        }
    };
}
pub(crate) use op_params;
/// Declares an enum of parameter codes.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[$doc])* $variant = $code,)* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
        }

        impl $crate::format::Word for $name {
            const WORDS: usize = 1;
            #[inline(always)]
            fn read(words: &mut $crate::format::ReadWords<'_>) -> Option<Self> {
                match words.word()? { $($code => Some(Self::$variant),)* _ => None }
            }
            fn write(&self, out: &mut dyn $crate::format::WriteWords) {
                out.word(*self as u32);
            }
        }
    };
}
pub(crate) use codes;
