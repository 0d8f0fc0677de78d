"""Every source, which wins, where a value came from, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from forebay.core.errors import SetupError
from forebay.core.settings import JobSettings, ModelSettings, Settings
from forebay.core.settings_sources import LoadedSettings, fold_name, load_settings


def load(
    folder: Path,
    *,
    toml: str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    sets: Sequence[str] = (),
) -> LoadedSettings:
    if toml is not None:
        (folder / "forebay.toml").write_text(toml)
    return load_settings(config_file=None, environ=environ or {}, flags=flags or {}, sets=sets, folder=folder)


def source_of(loaded: LoadedSettings, key: str) -> str:
    return next(row.source for row in loaded.rows() if row.key == key)


def refusal(folder: Path, **sources: Any) -> str:
    with pytest.raises(SetupError) as caught:
        load(folder, **sources)
    assert caught.value.code == "config_error"
    return caught.value.message.replace(f"{folder}/", "")


def test_without_any_source_all_is_default(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    assert loaded.settings == Settings()
    assert {row.source for row in loaded.rows()} == {"default"}
    assert loaded.model("m", {}, None) == ModelSettings()
    assert loaded.api_key_lines is None


PLAIN: list[tuple[dict[str, Any], int, str]] = [
    ({}, 8000, "default"),
    ({"toml": "server.port = 1"}, 1, "forebay.toml:server.port"),
    ({"toml": "server.port = 1", "environ": {"FOREBAY_SERVER__PORT": "2"}}, 2, "FOREBAY_SERVER__PORT"),
    (
        {"toml": "server.port = 1", "environ": {"FOREBAY_SERVER__PORT": "2"}, "flags": {"server.port": 3}},
        3,
        "--port",
    ),
    ({"toml": "server.port = 1", "flags": {"server.port": "3"}}, 3, "--port"),
    ({"toml": "server.port = 1", "flags": {"server.port": None}}, 1, "forebay.toml:server.port"),
]


@pytest.mark.parametrize(("sources", "port", "source"), PLAIN)
def test_later_sources_win_for_the_server(tmp_path: Path, sources: dict[str, Any], port: int, source: str) -> None:
    loaded = load(tmp_path, **sources)
    assert loaded.settings.server.port == port
    assert source_of(loaded, "server.port").replace(f"{tmp_path}/", "") == source


MODEL_SOURCES: list[tuple[str, str]] = [
    ("class", "class attribute threads of my-model"),
    ("sidecar", "model.toml:threads"),
    ("star", "forebay.toml:models.*.threads"),
    ("toml", "forebay.toml:models.my-model.threads"),
    ("environ", "FOREBAY_MODELS__MY_MODEL__THREADS"),
    ("flag", "--threads"),
    ("set star", "--set *.threads"),
    ("set", "--set my-model.threads"),
]


@pytest.mark.parametrize("last", range(len(MODEL_SOURCES)))
def test_later_sources_win_for_a_model(tmp_path: Path, last: int) -> None:
    """Each source gives its own place in the order as the value; all up to `last` are present."""
    present = [name for name, _ in MODEL_SOURCES[: last + 1]]
    value = {name: index + 1 for index, (name, _) in enumerate(MODEL_SOURCES)}
    sidecar = tmp_path / "model.toml"
    sidecar.write_text(f"threads = {value['sidecar']}")
    toml = f"[models.my-model]\nthreads = {value['toml']}\n" if "toml" in present else ""
    toml += f'[models."*"]\nthreads = {value["star"]}\n' if "star" in present else ""
    loaded = load(
        tmp_path,
        toml=toml,
        environ={"FOREBAY_MODELS__MY_MODEL__THREADS": str(value["environ"])} if "environ" in present else {},
        flags={"models.*.threads": value["flag"]} if "flag" in present else {},
        sets=[
            f"{name}.threads={value[kind]}"
            for kind, name in (("set", "my-model"), ("set star", "*"))
            if kind in present
        ],
    )
    model = loaded.model("my-model", {"threads": value["class"]}, sidecar if "sidecar" in present else None)
    assert model.threads == last + 1
    assert loaded.settings.models == {"my-model": model}
    assert source_of(loaded, "models.my-model.threads").replace(f"{tmp_path}/", "") == MODEL_SOURCES[last][1]
    assert source_of(loaded, "models.my-model.slo_ms") == "default"


def test_a_models_settings_do_not_touch_another(tmp_path: Path) -> None:
    loaded = load(
        tmp_path, toml="models.a.threads = 2", environ={"FOREBAY_MODELS__A__SLO_MS": "5"}, sets=["a.pad=true"]
    )
    assert loaded.model("b", {}, None) == ModelSettings()
    assert loaded.model("a", {}, None) == ModelSettings(threads=2, slo_ms=5.0, pad=True)
    assert loaded.model_names() == ["a"]


def test_names_with_dots_and_double_underscores(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        toml='[models."a.b__c"]\nthreads = 2',
        environ={"FOREBAY_MODELS__A_B__C__SLO_MS": "5"},
        sets=["a.b__c.instances=3"],
    )
    assert loaded.model("a.b__c", {}, None) == ModelSettings(threads=2, slo_ms=5.0, instances=3)


def test_folded_names() -> None:
    assert fold_name("Mini-LM.v2 x") == "mini_lm_v2_x"


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"toml": "serve.port = 1"}, "forebay.toml:serve: unknown key 'serve'; did you mean 'server'?"),
    ({"toml": "zzz = 1"}, "forebay.toml:zzz: unknown key 'zzz'; known: cache, data_dir, jobs, log, models, server"),
    ({"toml": "server.prot = 1"}, "forebay.toml:server.prot: unknown key of [server]: 'prot'; did you mean 'port'?"),
    ({"toml": "log.levle = 'info'"}, "forebay.toml:log.levle: unknown key of [log]: 'levle'; did you mean 'level'?"),
    (
        {"toml": "models.m.thread = 1"},
        "forebay.toml:models.m.thread: unknown key of model 'm': 'thread'; did you mean 'threads'?",
    ),
    ({"toml": "server = 1"}, "forebay.toml:server: is a table; write [server] and its keys below it"),
    ({"toml": "models.m = 1"}, "forebay.toml:models.m: is a table; write [models.m] and its keys below it"),
    (
        {"toml": "[models.a.b]\nthreads = 1"},
        'forebay.toml:models.a.b: a model name with a dot needs quotes: [models."a.b"]',
    ),
    ({"toml": "port ="}, "forebay.toml: is not valid TOML: "),
    (
        {"toml": "server.port = 'x'"},
        "forebay.toml:server.port: port cannot be 'x'; accepted: a whole number from 0 to 65535",
    ),
    (
        {"toml": "models.m.semantic_threshold = 1.5"},
        "forebay.toml:models.m.semantic_threshold: semantic_threshold cannot be 1.5; accepted: a number above 0, at mo",
    ),
    (
        {"environ": {"FOREBAY_PORT": "1"}},
        "environment: unknown variable 'FOREBAY_PORT'; did you mean 'FOREBAY_SERVER__PORT'?",
    ),
    (
        {"environ": {"FOREBAY_SERVER_PORT": "1"}},
        "environment: unknown variable 'FOREBAY_SERVER_PORT'; did you mean 'FOREBAY_SERVER__PORT'?",
    ),
    (
        {"environ": {"FOREBAY_QQQQQQQQQQQQ": "1"}},
        "environment: unknown variable 'FOREBAY_QQQQQQQQQQQQ'; variables are FOREBAY_SERVER__KEY, FOREBAY_LOG__KEY, "
        "FOREBAY_JOBS__KEY, FOREBAY_CACHE__KEY, FOREBAY_MODELS__NAME__KEY",
    ),
    (
        {"environ": {"FOREBAY_MODELS__M__SLOMS": "1"}},
        "FOREBAY_MODELS__M__SLOMS: unknown key of model 'm': 'sloms'; did you mean 'slo_ms'?",
    ),
    ({"environ": {"FOREBAY_SERVER__PORT": ""}}, "FOREBAY_SERVER__PORT: port cannot be ''; accepted: a whole number"),
    (
        {"environ": {"FOREBAY_API_KEYS": "x", "FOREBAY_SERVER__API_KEYS": "f"}},
        "FOREBAY_API_KEYS and FOREBAY_SERVER__API_KEYS are both set; give the keys or the file's path, not both",
    ),
    (
        {"environ": {"FOREBAY_WEBHOOK_SECRETS": "x", "FOREBAY_JOBS__WEBHOOK_SECRETS": "f"}},
        "FOREBAY_WEBHOOK_SECRETS and FOREBAY_JOBS__WEBHOOK_SECRETS are both set; give the secrets or the file's path, "
        "not both",
    ),
    ({"flags": {"server.port": -1}}, "--port: port cannot be -1; accepted: a whole number from 0 to 65535"),
    ({"flags": {"log.level": "loud"}}, "--log-level: level cannot be 'loud'; accepted: one of debug, info, "),
    ({"flags": {"jobs.durability": "none"}}, "--durability: durability cannot be 'none'; accepted: one of everysec, "),
    ({"flags": {"jobs.lease_s": 0}}, "--jobs-lease-s: lease_s cannot be 0; accepted: seconds from 0.1 to 86400"),
    (
        {"environ": {"FOREBAY_JOBS__STORE": "amqp://me:fb_secret@host"}},
        "FOREBAY_JOBS__STORE: store cannot be 'amqp://me:***@host'; accepted: redis://HOST:PORT, rediss://HOST:PORT ",
    ),
    ({"toml": "jobs.store = 'localhost:6379'"}, "forebay.toml:jobs.store: store cannot be 'localhost:6379'; accepted"),
    ({"sets": ["jobs.lease_s=1"]}, "--set jobs.lease_s: --set is for models; use FOREBAY_JOBS__LEASE_S or [jobs] in "),
    ({"flags": {"server.prot": 1}}, "--prot: unknown key 'server.prot'; did you mean 'server.port'?"),
    ({"flags": {"models.*.device": "x"}}, "--device: unknown key of model '*': 'device'; did you mean 'devices'?"),
    ({"sets": ["m.threads"]}, "--set m.threads: the form is NAME.key=value"),
    ({"sets": ["threads=1"]}, "--set threads: the form is NAME.key=value"),
    ({"sets": [".threads=1"]}, "--set .threads: the form is NAME.key=value"),
    ({"sets": ["m.treads=1"]}, "--set m.treads: unknown key of model 'm': 'treads'; did you mean 'threads'?"),
    (
        {"sets": ["m.threads=many"]},
        "--set m.threads: threads cannot be 'many'; accepted: a whole number from 1 to 1024",
    ),
    ({"sets": ["server.port=1"]}, "--set server.port: --set is for models; use FOREBAY_SERVER__PORT or [server] in "),
]


@pytest.mark.parametrize(("sources", "message"), REFUSALS)
def test_refusals_name_source_key_and_the_nearest_right_one(
    tmp_path: Path, sources: dict[str, Any], message: str
) -> None:
    said = refusal(tmp_path, **sources)
    assert said.startswith(message)
    assert "fb_secret" not in said


def test_test_variables_and_foreign_ones_are_passed_over(tmp_path: Path) -> None:
    environ = {
        "FOREBAY_API_KEY": "fb_of_a_client",
        "FOREBAY_TEST_SLOW": "1",
        "PATH": "/bin",
        "FOREBAYX": "1",
        "forebay_port": "1",
    }
    assert load(tmp_path, environ=environ).settings == Settings()


def test_jobs_from_each_source(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        toml="[jobs]\nlease_s = 5\nmax_queued_bytes = '1MiB'",
        environ={"FOREBAY_JOBS__STORE": "redis://me:pw@host/1", "FOREBAY_JOBS__SHARDS": "4"},
        flags={"jobs.durability": "always", "jobs.lease_s": "6"},
    )
    assert loaded.settings.jobs == JobSettings(
        store="redis://me:pw@host/1", shards=4, durability="always", lease_s=6.0, max_queued_bytes=1 << 20
    )
    assert source_of(loaded, "jobs.lease_s") == "--jobs-lease-s"
    assert load(tmp_path, flags={"jobs.store": "none"}).settings.jobs.store is None


def test_rows_never_hold_the_password_of_the_store(tmp_path: Path) -> None:
    loaded = load(tmp_path, flags={"jobs.store": "redis://me:pw@host/1"})
    assert {row.value for row in loaded.rows() if row.key == "jobs.store"} == {"redis://me:***@host/1"}


def test_data_dir_from_each_source(tmp_path: Path) -> None:
    assert load(tmp_path, toml="data_dir = 'd'").settings.data_dir == tmp_path / "d"
    from_env = load(tmp_path, environ={"FOREBAY_DATA_DIR": "e"})
    assert (from_env.settings.data_dir, source_of(from_env, "data_dir")) == (Path("e"), "FOREBAY_DATA_DIR")
    assert load(tmp_path, flags={"data_dir": Path("f")}).settings.data_dir == Path("f")


def test_named_config_file(tmp_path: Path) -> None:
    (tmp_path / "forebay.toml").write_text("server.port = 1")
    other = tmp_path / "other.toml"
    other.write_text("\ufeffserver.port = 2", encoding="utf-8")
    loaded = load_settings(config_file=other, environ={}, flags={}, sets=(), folder=tmp_path)
    assert loaded.settings.server.port == 2
    with pytest.raises(SetupError, match=r"nope\.toml: cannot be read: No such file or directory"):
        load_settings(config_file=tmp_path / "nope.toml", environ={}, flags={}, sets=())
    other.write_bytes(b"\xff\xfe")
    with pytest.raises(SetupError, match=r"other\.toml: is not valid TOML"):
        load_settings(config_file=other, environ={}, flags={}, sets=())


def test_settings_of_a_model_that_is_not_served(tmp_path: Path) -> None:
    loaded = load(tmp_path, sets=["minilm.threads=2"])
    loaded.check_models(["minilm", "other"])
    with pytest.raises(SetupError) as caught:
        loaded.check_models(["mini-lm", "other"])
    assert caught.value.message == (
        "--set minilm.threads: settings for model 'minilm', which is not served; served: mini-lm, other; "
        "did you mean 'mini-lm'?"
    )


def test_a_model_that_may_come_later_may_have_settings(tmp_path: Path) -> None:
    loaded = load(tmp_path, sets=["later.threads=2"])
    (told,) = loaded.check_models(["mlp"], others_may_come=True)
    assert told.startswith("--set later.threads: settings for model 'later', which is not served")
    assert loaded.check_models(["mlp", "later"], others_may_come=True) == []


def test_a_path_in_a_settings_file_counts_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text("labels = 'labels.txt'")
    assert load(tmp_path).model("m", {}, tmp_path / "model.toml").labels == tmp_path / "labels.txt"
    assert load(tmp_path, sets=["m.labels=labels.txt"]).model("m", {}, None).labels == Path("labels.txt")


@pytest.mark.parametrize(
    "sources", [{"toml": "[models.x]"}, {"environ": {"FOREBAY_MODELS__X__PAD": "1"}}, {"flags": {"models.x.pad": True}}]
)
def test_every_source_is_checked_for_models_not_served(tmp_path: Path, sources: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match="settings for model 'x', which is not served; served: mlp"):
        load(tmp_path, **sources).check_models(["mlp"])


def test_star_needs_no_model_of_that_name(tmp_path: Path) -> None:
    load(tmp_path, flags={"models.*.devices": "cpu"}).check_models(["mlp"])


def test_a_variable_that_fits_two_models_is_refused(tmp_path: Path) -> None:
    loaded = load(tmp_path, environ={"FOREBAY_MODELS__A_B__PAD": "1"})
    loaded.check_models(["a-b"])
    with pytest.raises(SetupError, match=r"FOREBAY_MODELS__A_B__PAD: .* more than one model: a-b, a.b; use --set"):
        loaded.check_models(["a-b", "a.b"])


def test_sidecar_refusals(tmp_path: Path) -> None:
    sidecar = tmp_path / "m.toml"
    sidecar.write_text("slo = 5")
    with pytest.raises(SetupError, match=r"m\.toml:slo: unknown key of model 'm': 'slo'; did you mean 'slo_ms'\?"):
        load(tmp_path).model("m", {}, sidecar)
    sidecar.write_text("slo_ms = 'soon'")
    with pytest.raises(SetupError, match=r"m\.toml:slo_ms: slo_ms cannot be 'soon'; accepted: milliseconds above 0"):
        load(tmp_path).model("m", {}, sidecar)


def test_class_attributes_that_are_no_settings_are_passed_over(tmp_path: Path) -> None:
    class Own:
        vocabulary = ("a", "b")
        weights = (1.0, 2.0)
        device = "x"
        max_batch_rows = 8
        _threads = "x"

        def pad(self) -> None: ...

        @property
        def cache(self) -> str:
            return "exact"

    assert load(tmp_path).model("own", vars(Own), None) == ModelSettings(max_batch_rows=8)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"max_batch_row": 8}, "class attribute max_batch_row of m: unknown setting 'max_batch_row'; did you mean"),
        ({"slo_ms": "50"}, "class attribute slo_ms of m: slo_ms cannot be '50'; accepted: milliseconds above 0"),
        (
            {"cache": "near"},
            "class attribute cache of m: cache cannot be 'near'; accepted: one of off, exact, semantic",
        ),
    ],
)
def test_class_attribute_refusals(tmp_path: Path, attributes: dict[str, object], message: str) -> None:
    with pytest.raises(SetupError) as caught:
        load(tmp_path).model("m", attributes, None)
    assert caught.value.message.startswith(message)


def test_default_timeout() -> None:
    assert ModelSettings().default_timeout_s == 30.0
    assert ModelSettings(slo_ms=250.0).default_timeout_s == 0.25


@pytest.mark.parametrize("line", ["allow_pickle = true", "trusted_types = ['a.B']", "request_log_redact = 'a.py:f'"])
def test_a_model_cannot_vouch_for_itself(tmp_path: Path, line: str) -> None:
    sidecar = tmp_path / "m.toml"
    sidecar.write_text(line)
    key = line.split()[0]
    with pytest.raises(SetupError, match=rf"{key} may not stand beside the model.*--set m\.{key}=") as caught:
        load(tmp_path).model("m", {}, sidecar)
    assert caught.value.code == "config_error"
    assert load(tmp_path, sets=["m.allow_pickle=true"]).model("m", {}, None).allow_pickle
    assert load(tmp_path, sets=["m.trusted_types=a.B,c.D"]).model("m", {}, None).trusted_types == ("a.B", "c.D")


def test_a_class_does_not_choose_what_runs_in_the_server(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"class attribute request_log_redact of m: it runs where .*\[models\.m\]"):
        load(tmp_path).model("m", {"request_log_redact": "a.py:f"}, None)


@pytest.mark.parametrize("text", ["a.py", "a.py:", ":f", "a.py:f()", "f"])
def test_a_function_has_a_file_or_module_and_a_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        SetupError, match=r"request_log_redact cannot be .*; accepted: a function, such as redact\.py:re"
    ):
        load(tmp_path, sets=[f"m.request_log_redact={text}"]).model("m", {}, None)


def test_a_function_of_a_file_is_taken_from_the_settings_files_folder(tmp_path: Path) -> None:
    (tmp_path / "forebay.toml").write_text("[models.m]\nrequest_log_redact = 'sub/a.py:f'")
    assert load(tmp_path).model("m", {}, None).request_log_redact == f"{tmp_path / 'sub' / 'a.py'}:f"
    for text in ("pkg.mod:f", "a.py:f"):
        assert load(tmp_path, sets=[f"m.request_log_redact={text}"]).model("m", {}, None).request_log_redact == text


@pytest.mark.parametrize("service", ["", "WEB_", "MY_WEB_"])
def test_what_kubernetes_tells_of_services_is_no_setting(service: str) -> None:
    names = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_8000_TCP", "PORT_8000_TCP_ADDR")
    environ = {f"FOREBAY_{service}{name}": "tcp://10.0.0.1:8000" for name in names}
    loaded = load_settings(environ=environ, flags={}, sets=(), folder=None, config_file=None)
    assert loaded.settings.server.port == 8000
    for near in ("FOREBAY_PORTS", "FOREBAY_SERVICE", "FOREBAY_SERVER__PORTS", "FOREBAY_SERVER__SERVICE_PORT"):
        with pytest.raises(SetupError, match="unknown variable"):
            load_settings(environ={near: "1"}, flags={}, sets=(), folder=None, config_file=None)
