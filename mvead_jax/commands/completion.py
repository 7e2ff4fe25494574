"""Print the script by which a shell completes commands, flags, names of configs and their fields.

    mvead completion bash > ~/.local/share/bash-completion/completions/mvead
    mvead completion zsh > <a folder of $fpath>/_mvead
    mvead completion fish > ~/.config/fish/completions/mvead.fish

For the shell that is open: eval "$(mvead completion bash)", and the same with zsh; `mvead completion fish | source`.
What is no flag is completed as a file. The script holds the words as they are now: print it again after an update.

exit codes: 0 printed; 2 a mistake in the command
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence

from mvead_jax.commands import program
from mvead_jax.commands.parsing import Parser, command_parser
from mvead_jax.config.named import config_names
from mvead_jax.config.schema import Config

SHELLS = ("bash", "zsh", "fish")

_BASH = """_mvead() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands}"
  elif [ "$previous" = --config ]; then
    words="{configs}"
  elif [[ "$current" == --config.* ]]; then
    words="{fields}"
  elif [[ "$current" == -* || "${{COMP_WORDS[1]}}" =~ ^({parted})$ ]]; then
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o bashdefault -o default -F _mvead mvead
"""

_ZSH = """#compdef mvead
_mvead() {{
  local current="${{words[CURRENT]}}" previous="${{words[CURRENT-1]}}"
  local -a found
  if (( CURRENT == 2 )); then
    found=({commands})
  elif [[ "$previous" == --config ]]; then
    found=({configs})
  elif [[ "$current" == --config.* ]]; then
    found=({fields})
  elif [[ "$current" == -* || "${{words[2]}}" == ({parted}) ]]; then
    case "${{words[2]}}" in
{cases}
    esac
  fi
  compadd -a found
  [[ "$current" == -* ]] || _files
}}
if [[ "$funcstack[1]" == _mvead ]]; then _mvead "$@"; else compdef _mvead mvead; fi
"""


def parser() -> Parser:
    """Return the parser of the command."""
    own = command_parser("completion", __doc__)
    own.add_argument("shell", choices=SHELLS, help="the shell whose script is printed")
    return own


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; sys.argv if no arguments are given."""
    shell = parser().parse(arguments).shell
    parsers = {name: program.module_of(name).parser() for name in program.COMMANDS}
    print(_fish(parsers) if shell == "fish" else _posix(shell, parsers), end="")


def config_fields() -> list[str]:
    """Return the flags of the fields that the config of every method has."""
    return [f"--config.{name}" for name in _fields(Config, "")]


def _fields(kind: type, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        inner = hints[field.name]
        if dataclasses.is_dataclass(inner):
            yield from _fields(inner, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def _words(own: Parser) -> list[str]:
    """Return what may follow a command: its parts, the choices of its arguments, and its flags."""
    choices = [
        choice for action in own._actions if not action.option_strings for choice in action.choices or ()
    ]
    return [*choices, *own.flags()]


def _posix(shell: str, parsers: dict[str, Parser]) -> str:
    """Return the script of bash or zsh."""
    form = '      {}) words="{}" ;;' if shell == "bash" else "      {}) found=({}) ;;"
    template = _BASH if shell == "bash" else _ZSH
    return template.format(
        commands=" ".join(parsers),
        configs=" ".join(config_names()),
        fields=" ".join(config_fields()),
        parted="|".join(name for name, own in parsers.items() if _words(own) != own.flags()),
        cases="\n".join(form.format(name, " ".join(_words(own))) for name, own in parsers.items()),
    )


def _fish(parsers: dict[str, Parser]) -> str:
    """Return the script of fish."""
    lines = [
        f'complete -c mvead -n __fish_use_subcommand -f -a {name} -d "{program.COMMANDS[name].about}"'
        for name in parsers
    ]
    for name, own in parsers.items():
        inside = f"complete -c mvead -n '__fish_seen_subcommand_from {name}'"
        for word in _words(own):
            lines.append(f"{inside} -l {word[2:]}" if word.startswith("--") else f"{inside} -a {word}")
    takes = " ".join(name for name, own in parsers.items() if "--config" in own.flags())
    inside = f"complete -c mvead -n '__fish_seen_subcommand_from {takes}'"
    lines.append(f"{inside} -l config -x -a '{' '.join(config_names())}'")
    lines += [f"{inside} -l {field[2:]} -r" for field in config_fields()]
    return "\n".join(lines) + "\n"
