"""What every picture carries about itself: that a network painted it, and whom it shows. In words, and for machines.

The words of the field are IPTC's: a digital source type (NewsCodes), in XMP where there are files. docs/provenance.md says
where each mark lies, how to read it, and what takes it away. It knows no transport.
"""

from __future__ import annotations

import json
from uuid import UUID

from engine.avatar import Person
from streaming import h264

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
GENERATOR = "LiveAnchor"
USER_DATA = UUID("8f1e9bb9-8bf0-4467-9a15-04139c9c3d25")  # of our user data in H.264; drawn once, never to change

_STATEMENTS: dict[Person, str] = {
    "synthetic": "AI-generated: this person does not exist",
    "real": "AI-generated picture of a real person",
    "unknown": "AI-generated: unknown whether this person exists",
}

_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{source}" Iptc4xmpExt:AISystemUsed="{generator}" xmp:CreatorTool="{generator}">
<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{statement}</rdf:li></rdf:Alt></dc:description>
</rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def statement(person: Person) -> str:
    """What a viewer is told, in a line."""
    return _STATEMENTS[person]


def facts(person: Person) -> dict[str, str]:
    """The same for machines."""
    return {"person": person, "digital_source_type": SOURCE_TYPE, "generator": GENERATOR}


def user_data(person: Person) -> bytes:
    """The facts as JSON in a NAL unit of H.264, for `streaming.h264.before_picture`."""
    return h264.user_data(USER_DATA, json.dumps(facts(person), separators=(",", ":")).encode())


def xmp(person: Person) -> str:
    """An XMP packet (ISO 16684-1) with IPTC's properties."""
    return _XMP.format(source=SOURCE_TYPE, generator=GENERATOR, statement=statement(person))


def tags(person: Person, title: str) -> dict[str, str]:
    """A file's metadata by FFmpeg's names. Players show the title."""
    return {"title": f"{title} (AI-generated)", "comment": statement(person), "xmp": xmp(person)}
