//! The steps of the model of closings, its closings, and sets of either in a byte.

/// See `frames.rs`. W is S again, woken by the end of the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    X,
    S,
    W,
    F,
    K,
    O,
    Y,
}

pub const STEPS: [Step; 7] = [Step::X, Step::S, Step::W, Step::F, Step::K, Step::O, Step::Y];

/// The closings: of the body's frame, of the run, of the child run.
pub const FRAME: Set = Set(1);
pub const RUN: Set = Set(2);
pub const CHILD: Set = Set(4);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Set(u8);

impl Step {
    pub fn only(self) -> Set {
        Set(1 << self as u8)
    }

    pub fn and(self, other: Self) -> Set {
        self.only().with(other.only())
    }

    /// It belongs to what one of these closes.
    pub fn is_closed_by(self, closings: Set) -> bool {
        closings.has_any(match self {
            Self::X | Self::S | Self::W | Self::F => FRAME.with(RUN),
            Self::K | Self::O => RUN,
            Self::Y => CHILD,
        })
    }

    /// What the fence looks for.
    pub fn closings_of_its_run(self) -> Set {
        if self == Self::Y { CHILD } else { FRAME.with(RUN) }
    }
}

impl Set {
    pub const NONE: Self = Self(0);

    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub fn has(self, step: Step) -> bool {
        self.has_any(step.only())
    }

    pub fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Its steps.
    pub fn each(self) -> impl Iterator<Item = Step> {
        STEPS.into_iter().filter(move |step| self.has(*step))
    }

    /// Each of its members as a set.
    pub fn bits(self) -> impl Iterator<Item = Self> {
        (0..8).map(|bit| Self(1 << bit)).filter(move |bit| self.has_any(*bit))
    }

    /// All there are, the empty one too.
    pub fn subsets(self) -> impl Iterator<Item = Self> {
        (0..=self.0).map(Self).filter(move |set| set.without(self).is_empty())
    }
}
