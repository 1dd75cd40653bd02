"""The sheet of a plain text: what the tokenizer puts before it, the text, EOS."""

from pipeline.columnar.sheet import Atom, Sheet
from pipeline.encoders.base import Encoder
from schemas.channels import Part, Role, pack_channel


def text_sheet(encoder: Encoder) -> Sheet:
    """The channels are those of `text_channels`: BOS is template and EOS the end where they are control tokens."""
    controls = {token.id for token in encoder.added_tokens if token.special}
    tokens = [*encoder.document_prefix, *encoder.document_suffix]
    parts = [Part.BODY] * len(tokens)
    if encoder.document_prefix and tokens[0] in controls:
        parts[0] = Part.TEMPLATE
    if encoder.document_suffix and tokens[-1] in controls:
        parts[-1] = Part.END
    atoms = [Atom(pack_channel(Role.TEXT, part), token=token) for part, token in zip(parts, tokens, strict=True)]
    before = len(encoder.document_prefix)
    text = Atom(pack_channel(Role.TEXT, Part.BODY), text=0, is_row=True)
    return Sheet((*atoms[:before], text, *atoms[before:]), ())
