//! Conditional writes, many in one statement: assume what is mostly stored, compare and set, and let whoever was
//! wrong see what is stored instead, to decide again.
//!
//! A statement takes an array for each column, and unnests them side by side in its select list. (In FROM each would be a
//! function scan with a store of its own: 118 µs instead of 57 for 15 arrays of one element, Postgres 15.)
//!
//! Three traps are dealt with here, once. A statement that held a key twice would apply one write and drop the other
//! in silence: the twin is left out, and finds what the first one stored. The winner of a conflict is invisible
//! to the statement that lost: the losers' rows are read in a statement of their own. And a row that another transaction
//! holds (a person's, in `psql`) would hold up all that share its statement: the statement gives up after 0.2 s, is
//! repeated without that row, and only the row's own write fails, to be tried again.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::batch::{Answers, Batch};
use crate::database::{StoreError, again_if_lost};

/// Once a row was held, so long each batch asks beforehand which of its rows are: else each would find it out by waiting.
const WARY: Duration = Duration::from_secs(10);

/// The statement of [`Table::held`]: of the keys in `$1`, those whose rows other transactions hold. Both as they stand in SQL:
/// `held_rows!("orders", "order_id")`.
#[macro_export]
macro_rules! held_rows {
    ($table:literal, $key:literal) => {
        concat!(
            "WITH free AS MATERIALIZED (SELECT ",
            $key,
            " FROM ",
            $table,
            " WHERE ",
            $key,
            " = ANY($1) FOR NO KEY UPDATE SKIP LOCKED) SELECT ",
            $key,
            " FROM ",
            $table,
            " WHERE ",
            $key,
            " = ANY($1) AND ",
            $key,
            " NOT IN (SELECT ",
            $key,
            " FROM free)"
        )
    };
}

/// A table, and one kind of write to it.
pub trait Table: Send + Sync + 'static {
    type Key: Clone + Eq + Ord + Hash + Send + Sync + 'static;
    type Row: Clone + Send + Sync + 'static;
    type Write: Send + Sync + 'static;

    /// What is written, for log lines: "payments", say.
    const NAME: &'static str;

    fn key(write: &Self::Write) -> Self::Key;

    /// Makes those writes whose expectation holds, and answers their rows as stored. The writes have different
    /// keys, and are sorted by them: all instances lock rows in the same order.
    ///
    /// # Errors
    /// [`StoreError::Locked`], with nothing done, from a session that is
    /// [impatient of locks](crate::database::Session::impatient_of_locks).
    fn compare_and_set(
        &self,
        writes: &[&Self::Write],
    ) -> impl Future<Output = Result<HashMap<Self::Key, Self::Row>, StoreError>> + Send;

    /// Reads rows.
    fn read(
        &self,
        keys: Vec<Self::Key>,
    ) -> impl Future<Output = Result<HashMap<Self::Key, Self::Row>, StoreError>> + Send;

    /// For which of these writes other transactions hold rows. For writes that create rows and change no others: none.
    fn held(&self, _: &[&Self::Write]) -> impl Future<Output = Result<HashSet<Self::Key>, StoreError>> + Send {
        std::future::ready(Ok(HashSet::new()))
    }
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome<R> {
    /// It took place: this is the row now.
    Stored(R),
    /// Its expectation did not hold: this is the row instead, if there is one.
    Found(Option<R>),
}

/// A table's writes as a [`Batch`].
///
/// A write whose row another transaction holds is answered [`StoreError::Locked`]: nothing was done for it.
pub struct ConditionalWrites<T> {
    table: T,
    /// Set while rows are found held, and for a while after.
    wary_until: Mutex<Option<Instant>>,
}

impl<T: Table> ConditionalWrites<T> {
    pub fn to(table: T) -> Self {
        Self { table, wary_until: Mutex::default() }
    }

    /// Makes the writes but for those whose rows are held; answers what was stored, and which those are.
    async fn write(&self, writes: &[&T::Write]) -> Result<(HashMap<T::Key, T::Row>, HashSet<T::Key>), StoreError> {
        let is_wary = self.wary_until.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if !is_wary {
            match self.table.compare_and_set(writes).await {
                Err(StoreError::Locked(_)) => {}
                outcome => return Ok((outcome?, HashSet::new())),
            }
        }
        let held = self.table.held(writes).await?;
        self.note(held.len(), Instant::now());
        let free: Vec<&T::Write> = writes.iter().copied().filter(|write| !held.contains(&T::key(write))).collect();
        let stored = if free.is_empty() { HashMap::new() } else { self.table.compare_and_set(&free).await? };
        Ok((stored, held))
    }

    fn note(&self, held: usize, now: Instant) {
        let mut wary_until = self.wary_until.lock().unwrap_or_else(PoisonError::into_inner);
        match *wary_until {
            None if held > 0 => warn!(
                table = T::NAME,
                rows = held,
                "another transaction holds rows: their writes are tried again, the others go on"
            ),
            Some(until) if held == 0 && until <= now => {
                *wary_until = None;
                info!(table = T::NAME, "no rows are held any more");
            }
            _ => {}
        }
        if held > 0 {
            *wary_until = Some(now + WARY);
        }
    }
}

impl<T: Table> Batch for ConditionalWrites<T> {
    type Item = T::Write;
    type Answer = Outcome<T::Row>;
    const NAME: &'static str = T::NAME;

    async fn run(&self, items: &[T::Write]) -> Answers<Outcome<T::Row>> {
        let mut keys = HashSet::new();
        let mut firsts: Vec<usize> = (0..items.len()).filter(|i| keys.insert(T::key(&items[*i]))).collect();
        firsts.sort_unstable_by_key(|i| T::key(&items[*i]));
        let writes: Vec<&T::Write> = firsts.iter().map(|i| &items[*i]).collect();
        let (mut stored, held) = self.write(&writes).await?;

        let mut outcomes: Vec<Option<Outcome<T::Row>>> = items.iter().map(|_| None).collect();
        for i in firsts {
            outcomes[i] = stored.remove(&T::key(&items[i])).map(Outcome::Stored);
        }
        let unmet: HashSet<T::Key> = items
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| outcome.is_none())
            .map(|(item, _)| T::key(item))
            .filter(|key| !held.contains(key))
            .collect();
        let unmet: Vec<T::Key> = unmet.into_iter().collect();
        let found =
            if unmet.is_empty() { Ok(HashMap::new()) } else { again_if_lost(|| self.table.read(unmet.clone())).await };
        // What took place did so, even if the others' rows can't be read now.
        let answer = |(outcome, item): (Option<Outcome<T::Row>>, &T::Write)| match (outcome, &found) {
            (Some(stored), _) => Ok(stored),
            (None, _) if held.contains(&T::key(item)) => Err(StoreError::Locked(format!("one of {}", T::NAME).into())),
            (None, Ok(found)) => Ok(Outcome::Found(found.get(&T::key(item)).cloned())),
            (None, Err(error)) => Err(StoreError::Unavailable(error.cause().clone())),
        };
        Ok(outcomes.into_iter().zip(items).map(answer).collect())
    }
}

/// A table's rows by key, as a [`Batch`]: whoever reads at the same time shares a statement.
pub struct Reads<T>(pub T);

impl<T: Table> Batch for Reads<T> {
    type Item = T::Key;
    type Answer = Option<T::Row>;
    const NAME: &'static str = T::NAME;
    const KIND: &'static str = "read";

    async fn run(&self, keys: &[T::Key]) -> Answers<Option<T::Row>> {
        let rows = again_if_lost(|| self.0.read(keys.to_vec())).await?;
        Ok(keys.iter().map(|key| Ok(rows.get(key).cloned())).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Numbers by name; a write names the number that it expects.
    #[derive(Default)]
    struct Numbers {
        rows: Mutex<HashMap<char, u32>>,
        unreadable: bool,
        held: Mutex<HashSet<char>>,
        /// Statements that met a row that is held.
        blocked: AtomicUsize,
    }

    struct Set(char, Option<u32>, u32);

    impl Table for Numbers {
        type Key = char;
        type Row = u32;
        type Write = Set;
        const NAME: &'static str = "numbers";

        fn key(write: &Set) -> char {
            write.0
        }

        async fn compare_and_set(&self, writes: &[&Set]) -> Result<HashMap<char, u32>, StoreError> {
            let mut rows = self.rows.lock().unwrap();
            assert!(writes.is_sorted_by_key(|write| write.0));
            if writes.iter().any(|write| self.held.lock().unwrap().contains(&write.0)) {
                self.blocked.fetch_add(1, Ordering::Relaxed);
                return Err(StoreError::Locked("canceling statement due to lock timeout".into()));
            }
            let met: Vec<&&Set> =
                writes.iter().filter(|Set(key, expected, _)| rows.get(key) == expected.as_ref()).collect();
            Ok(met.into_iter().map(|Set(key, _, value)| (*key, *rows.entry(*key).insert_entry(*value).get())).collect())
        }

        async fn read(&self, keys: Vec<char>) -> Result<HashMap<char, u32>, StoreError> {
            if self.unreadable {
                return Err(StoreError::NotSent("no connection".into()));
            }
            let rows = self.rows.lock().unwrap();
            Ok(keys.into_iter().filter_map(|key| rows.get(&key).map(|value| (key, *value))).collect())
        }

        async fn held(&self, writes: &[&Set]) -> Result<HashSet<char>, StoreError> {
            let held = self.held.lock().unwrap();
            Ok(writes.iter().map(|write| write.0).filter(|key| held.contains(key)).collect())
        }
    }

    async fn write(writes: &ConditionalWrites<Numbers>, items: &[Set]) -> Vec<Outcome<u32>> {
        writes.run(items).await.unwrap().into_iter().map(Result::unwrap).collect()
    }

    #[tokio::test]
    async fn a_twin_in_the_batch_finds_what_the_first_one_stored() {
        let writes = ConditionalWrites::to(Numbers::default());
        let outcomes = write(&writes, &[Set('b', None, 1), Set('a', None, 5), Set('b', None, 2)]).await;
        assert_eq!(outcomes, [Outcome::Stored(1), Outcome::Stored(5), Outcome::Found(Some(1))]);
    }

    #[tokio::test]
    async fn a_wrong_expectation_changes_nothing_and_shows_the_row() {
        let writes = ConditionalWrites::to(Numbers::default());
        write(&writes, &[Set('a', None, 1)]).await;
        let outcomes = write(&writes, &[Set('a', None, 9), Set('z', Some(3), 4)]).await;
        assert_eq!(outcomes, [Outcome::Found(Some(1)), Outcome::Found(None)]);
        assert_eq!(write(&writes, &[Set('a', Some(1), 2)]).await, [Outcome::Stored(2)]);
    }

    #[tokio::test]
    async fn what_was_stored_is_answered_even_if_the_others_rows_cannot_be_read() {
        let writes = ConditionalWrites::to(Numbers { unreadable: true, ..Numbers::default() });
        let outcomes = writes.run(&[Set('a', None, 1), Set('z', Some(3), 4)]).await.unwrap();
        assert!(matches!(outcomes[0], Ok(Outcome::Stored(1))));
        assert!(matches!(outcomes[1], Err(StoreError::Unavailable(_))));
    }

    #[tokio::test]
    async fn a_row_that_another_transaction_holds_holds_up_no_other() {
        let writes = ConditionalWrites::to(Numbers::default());
        write(&writes, &[Set('a', None, 1), Set('b', None, 1), Set('c', None, 1)]).await;
        writes.table.held.lock().unwrap().insert('b');

        // The twin of what is held is held; a lost race is still told from it.
        let items = [Set('b', Some(1), 2), Set('a', Some(1), 2), Set('c', Some(9), 2), Set('b', Some(1), 3)];
        let outcomes = writes.run(&items).await.unwrap();

        assert!(matches!(outcomes[0], Err(StoreError::Locked(_))), "{outcomes:?}");
        assert_eq!(outcomes[1].as_ref().unwrap(), &Outcome::Stored(2));
        assert_eq!(outcomes[2].as_ref().unwrap(), &Outcome::Found(Some(1)));
        assert!(matches!(outcomes[3], Err(StoreError::Locked(_))), "{outcomes:?}");
        writes.table.held.lock().unwrap().clear();
        assert_eq!(write(&writes, &[Set('b', Some(1), 2)]).await, [Outcome::Stored(2)]);
    }

    #[tokio::test]
    async fn while_rows_are_held_no_batch_finds_it_out_by_waiting_but_the_first() {
        let writes = ConditionalWrites::to(Numbers::default());
        write(&writes, &[Set('a', None, 0), Set('b', None, 0)]).await;
        writes.table.held.lock().unwrap().insert('b');
        for n in 0..5 {
            writes.run(&[Set('a', Some(n), n + 1), Set('b', Some(0), 1)]).await.unwrap();
        }
        assert_eq!(writes.table.blocked.load(Ordering::Relaxed), 1);

        // It is over a while after the last row that was held.
        writes.table.held.lock().unwrap().clear();
        writes.note(0, Instant::now());
        assert!(writes.wary_until.lock().unwrap().is_some(), "not at once");
        writes.note(0, Instant::now() + WARY);
        assert!(writes.wary_until.lock().unwrap().is_none());
    }
}
