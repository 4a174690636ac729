//! What happened, in words if somebody wants to read it, and as a hash in any case: two runs are the same run when
//! their hashes are equal.

#[derive(Default)]
pub struct Trace {
    lines: Option<Vec<String>>,
    hash: u64,
}

impl Trace {
    pub fn new(in_words: bool) -> Self {
        Self { lines: in_words.then(Vec::new), hash: 0 }
    }

    /// Notes that an event happened, by its time, its throw of the dice, and its number.
    pub fn happened(&mut self, (at, throw, number): (u64, u32, u32)) {
        for part in [at, throw.into(), number.into()] {
            // The mixing step of rustc's FxHasher.
            self.hash = (self.hash.rotate_left(5) ^ part).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
    }

    /// Notes something in words. `line` is made only when somebody reads.
    pub fn line(&mut self, now: u64, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>4}.{:03} s  {}", now / 1000, now % 1000, line()));
        }
    }

    pub const fn hash(&self) -> u64 {
        self.hash
    }

    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}
