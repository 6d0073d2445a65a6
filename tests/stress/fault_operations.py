"""What a server is asked for while its disk fails. Each: `prepare` without faults, then `run`, any number of times.

`run` raises the server's error, or notes in the case's ledger what was acknowledged. What a server that died in
`run` may have done, without having said so, is in `dataset`, `deleting`, `activating` and `makes`.
"""

from __future__ import annotations

from fault_case import FIT, TWIN, Case
from laplace_client import _api, _requests
from server import MODEL, require


class Operation:
    dataset = ""  # id that may appear, of `sent` (count and seed of rows)
    sent = (0, 0)
    deleting = ""  # posterior that may go
    activating = ""  # posterior that may become active
    makes = False  # a posterior, which may become active too

    def __init__(self, case: Case) -> None:
        self.case = case

    def prepare(self) -> None:
        pass

    def run(self) -> None:
        raise NotImplementedError


class Upload(Operation):
    def prepare(self) -> None:
        self.sent = (50, self.case.next_seed())
        self.dataset = self.case.id_of(*self.sent)

    def run(self) -> None:
        self.case.upload(*self.sent)


class Fit(Operation):
    makes = True

    def run(self) -> None:
        case = self.case
        case.take_up(case.client.fit(MODEL, case.train, case.more, seed=case.next_seed(), **FIT))


class Update(Operation):
    makes = True

    def prepare(self) -> None:
        # Its directions take 60 and 60 of the training data, and these are new ones.
        self._data = self.case.upload(40, self.case.next_seed())

    def run(self) -> None:
        case = self.case
        case.take_up(case.client.update(MODEL, self._data, posterior_id=case.first))


class Calibrate(Operation):
    makes = True

    def run(self) -> None:
        case = self.case
        made = case.client.calibrate(MODEL, case.more, posterior_id=case.first, target_id_rate=0.1, keep_inactive=True)
        case.take_up(made, active=False)


class Activate(Operation):
    def prepare(self) -> None:
        case = self.case
        self.activating = case.second if case.active == case.first else case.first

    def run(self) -> None:
        self.case.activate(self.activating)


class Delete(Operation):
    def prepare(self) -> None:
        calibrated = Calibrate(self.case)
        before = set(self.case.posteriors)
        calibrated.run()
        (self.deleting,) = self.case.posteriors - before

    def run(self) -> None:
        self.case.client.delete_posterior(MODEL, self.deleting)
        self.case.posteriors.discard(self.deleting)


class Load(Operation):
    def prepare(self) -> None:
        case = self.case
        states = {model.name: model.state for model in case.client.list_models()}
        if states[TWIN] == "ready":
            case.client.unload_model(TWIN)

    def run(self) -> None:
        case = self.case
        model = case.client.load_model(TWIN)
        require(model.state == "ready", f"{model} was loaded")


class Look(Operation):
    """Reads only: lists and records."""

    def run(self) -> None:
        case = self.case
        case.client.list_models()
        case.client.list_posteriors(MODEL)
        case.client.get_posterior(MODEL, posterior_id=case.first)
        case.client._call(_api.GET_DATASET, _requests.build("GetDatasetRequest", id=case.train))


OPERATIONS = (Upload, Activate, Calibrate, Delete, Load, Look, Fit, Update)
