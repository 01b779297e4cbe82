"""job.py: which steps a job may take."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from headrace.errors import IllegalTransition
from headrace.job import TERMINAL, TRANSITIONS, JobState, Priority, Step, apply

LEGAL = {
    (JobState.QUEUED, Step.CLAIM): JobState.RUNNING,
    (JobState.QUEUED, Step.CANCEL): JobState.CANCELLED,
    (JobState.QUEUED, Step.EXPIRE): JobState.EXPIRED,
    (JobState.RUNNING, Step.SUCCEED): JobState.SUCCEEDED,
    (JobState.RUNNING, Step.FAIL): JobState.FAILED,
    (JobState.RUNNING, Step.RETRY): JobState.QUEUED,
    (JobState.RUNNING, Step.GIVE_BACK): JobState.QUEUED,
    (JobState.RUNNING, Step.LOSE): JobState.QUEUED,
    (JobState.RUNNING, Step.CANCEL): JobState.CANCELLED,
    (JobState.RUNNING, Step.EXPIRE): JobState.EXPIRED,
    (JobState.FAILED, Step.REPLAY): JobState.QUEUED,
    (JobState.CANCELLED, Step.REPLAY): JobState.QUEUED,
    (JobState.EXPIRED, Step.REPLAY): JobState.QUEUED,
}


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("step", Step)
def test_a_step_is_legal_only_where_the_table_says_so(state: JobState, step: Step) -> None:
    if (state, step) in LEGAL:
        assert apply(state, step) is LEGAL[state, step]
    else:
        with pytest.raises(IllegalTransition, match=f"a {state} job cannot {step.split('_')[0]}"):
            apply(state, step)


def test_every_step_and_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(Step)
    assert {state for state in JobState if state.terminal} == TERMINAL
    assert set(JobState) - TERMINAL == {JobState.QUEUED, JobState.RUNNING}


def test_only_claims_count_and_only_a_give_back_or_a_death_undoes_one() -> None:
    counting = {step: t.attempts for step, t in TRANSITIONS.items() if t.attempts}
    assert counting == {Step.CLAIM: +1, Step.GIVE_BACK: -1, Step.LOSE: -1}


def test_lower_priorities_run_first() -> None:
    assert sorted(Priority) == [Priority.HIGH, Priority.NORMAL, Priority.BULK]
    assert [priority.queue for priority in Priority] == ["high", "normal", "bulk"]


class Life(RuleBasedStateMachine):
    """Any steps in any order: terminal is terminal, and attempts never go below what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.state = JobState.QUEUED
        self.attempt = self.claims = self.given_back = 0

    @rule(step=st.sampled_from(Step))
    def take(self, step: Step) -> None:
        ended = self.state.terminal
        try:
            state = apply(self.state, step)
        except IllegalTransition:
            return
        assert not ended or step is Step.REPLAY
        if TRANSITIONS[step].afresh:
            self.attempt = self.claims = self.given_back = 0
        self.state = state
        self.attempt += TRANSITIONS[step].attempts
        self.claims += step is Step.CLAIM
        self.given_back += step in (Step.GIVE_BACK, Step.LOSE)

    @invariant()
    def attempts_are_claims_less_those_given_back(self) -> None:
        assert self.attempt == self.claims - self.given_back
        assert self.attempt >= (self.state is JobState.RUNNING)


TestLife = Life.TestCase
