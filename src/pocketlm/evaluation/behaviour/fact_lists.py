"""The closed lists of the facts task: short facts that are stable and that nobody disputes.

Left out are capitals that are contested, moved or shared, countries on two continents, and symbols that spell a word.
The first answer is the usual one; each of the others is taken as well.
"""

from __future__ import annotations

from collections.abc import Mapping

Facts = Mapping[str, tuple[str, ...]]
"""Subject -> accepted spellings."""


def _pairs(text: str) -> dict[str, tuple[str, ...]]:
    """Reads "subject: answer / answer; subject: answer"."""
    entries = (entry.partition(":") for entry in text.split(";"))
    return {subject.strip(): tuple(map(str.strip, answers.split("/"))) for subject, _, answers in entries}


CAPITALS: Facts = _pairs(
    "France: Paris; Germany: Berlin; Italy: Rome / Roma; Spain: Madrid; Portugal: Lisbon / Lisboa; "
    "Austria: Vienna / Wien; Belgium: Brussels / Bruxelles; Denmark: Copenhagen; Sweden: Stockholm; Norway: Oslo; "
    "Finland: Helsinki; Ireland: Dublin; Poland: Warsaw; Hungary: Budapest; Romania: Bucharest; Bulgaria: Sofia; "
    "Greece: Athens; Croatia: Zagreb; Slovenia: Ljubljana; Slovakia: Bratislava; Estonia: Tallinn; Latvia: Riga; "
    "Lithuania: Vilnius; Iceland: Reykjavik; the Czech Republic: Prague / Praha; the United Kingdom: London; "
    "Russia: Moscow; Turkey: Ankara; Egypt: Cairo; Kenya: Nairobi; Ethiopia: Addis Ababa; Ghana: Accra; "
    "Senegal: Dakar; Morocco: Rabat; Tunisia: Tunis; Uganda: Kampala; Rwanda: Kigali; Zambia: Lusaka; "
    "Zimbabwe: Harare; Angola: Luanda; Namibia: Windhoek; Japan: Tokyo; China: Beijing / Peking; "
    "South Korea: Seoul; Thailand: Bangkok; Vietnam: Hanoi / Ha Noi; the Philippines: Manila; "
    "India: New Delhi / Delhi; Nepal: Kathmandu; Bangladesh: Dhaka; Pakistan: Islamabad; Iran: Tehran / Teheran; "
    "Iraq: Baghdad; Jordan: Amman; Lebanon: Beirut; Mongolia: Ulaanbaatar / Ulan Bator; Canada: Ottawa; "
    "the United States: Washington; Cuba: Havana; Jamaica: Kingston; Peru: Lima; Argentina: Buenos Aires; "
    "Chile: Santiago; Uruguay: Montevideo; Paraguay: Asunción; Colombia: Bogotá; Venezuela: Caracas; "
    "Ecuador: Quito; Brazil: Brasília; Australia: Canberra; New Zealand: Wellington; Fiji: Suva"
)

LARGE_CITIES = (
    *("Sydney", "Melbourne", "Toronto", "Montreal", "Vancouver", "Istanbul", "Rio de Janeiro", "Sao Paulo"),
    *("New York", "Los Angeles", "Chicago", "Milan", "Barcelona", "Munich", "Hamburg", "Frankfurt", "Shanghai"),
    *("Hong Kong", "Mumbai", "Calcutta", "Kolkata", "Karachi", "Lahore", "Casablanca", "Auckland"),
    *("Ho Chi Minh City", "Saigon", "Saint Petersburg", "St. Petersburg", "Kyoto", "Osaka", "Busan", "Zurich"),
    *("Geneva", "Marseille", "Lyon", "Porto", "Antwerp", "Gothenburg", "Krakow", "Alexandria", "Mombasa"),
    *("Medellin", "Guayaquil", "Cusco", "Cordoba", "Venice", "Florence", "Naples", "Edinburgh", "Manchester"),
)
"""Cities that are taken for a capital; beside a right answer they take it back."""

SYMBOLS: Facts = _pairs(
    "gold: Au; silver: Ag; iron: Fe; copper: Cu; sodium: Na; lead: Pb; mercury: Hg; tin: Sn; zinc: Zn; calcium: Ca; "
    "magnesium: Mg; aluminium: Al; silicon: Si; chlorine: Cl; nickel: Ni; cobalt: Co; titanium: Ti; lithium: Li; "
    "neon: Ne; argon: Ar; platinum: Pt; potassium: K; hydrogen: H; oxygen: O; nitrogen: N; carbon: C; bromine: Br; "
    "uranium: U; manganese: Mn; chromium: Cr; barium: Ba; phosphorus: P; sulfur: S"
)

ELEMENTS: Facts = _pairs(
    "Au: gold; Ag: silver; Fe: iron; Cu: copper; Na: sodium; Pb: lead; Hg: mercury; Sn: tin; Zn: zinc; Ca: calcium; "
    "Mg: magnesium; Al: aluminium / aluminum; Si: silicon; Cl: chlorine; Ni: nickel; Co: cobalt; Ti: titanium; "
    "Li: lithium; Ne: neon; Ar: argon; Pt: platinum; K: potassium; H: hydrogen; O: oxygen; N: nitrogen; C: carbon"
)

OPPOSITES: Facts = _pairs(
    "hot: cold; cold: hot / warm; big: small / little; up: down; black: white; day: night; fast: slow; high: low; "
    "old: young / new; happy: sad / unhappy; light: dark / heavy; early: late; open: closed / shut / close; "
    "left: right; full: empty; wet: dry; rich: poor; strong: weak; hard: soft / easy; long: short; tall: short; "
    "near: far; north: south; east: west; first: last; loud: quiet / soft / silent; thick: thin; wide: narrow; "
    "true: false / untrue; front: back / rear; inside: outside; love: hate / hatred; buy: sell; win: lose; "
    "push: pull; good: bad / evil; clean: dirty / unclean; cheap: expensive / dear; deep: shallow; "
    "sharp: blunt / dull; sweet: sour / bitter; alive: dead; asleep: awake; begin: end / finish / stop; "
    "arrive: depart / leave; remember: forget; question: answer; heavy: light"
)

PLURALS: Facts = _pairs(
    "child: children; mouse: mice; foot: feet; tooth: teeth; goose: geese; man: men; woman: women; leaf: leaves; "
    "knife: knives; wolf: wolves; city: cities; baby: babies; box: boxes; bus: buses; church: churches; "
    "potato: potatoes; tomato: tomatoes; lady: ladies; half: halves; shelf: shelves; ox: oxen; thief: thieves; "
    "wife: wives; fly: flies; person: people / persons; life: lives; loaf: loaves; story: stories; watch: watches; "
    "dish: dishes; glass: glasses; country: countries"
)

PAST_TENSES: Facts = _pairs(
    "go: went; eat: ate; see: saw; come: came; give: gave; take: took; write: wrote; run: ran; sing: sang; "
    "swim: swam; drink: drank; begin: began; buy: bought; bring: brought; think: thought; teach: taught; "
    "catch: caught; find: found; make: made; know: knew; grow: grew; fly: flew; draw: drew; drive: drove; "
    "break: broke; speak: spoke; sleep: slept; leave: left; lose: lost; tell: told; sell: sold; stand: stood; "
    "win: won; build: built; send: sent; keep: kept"
)

SOUNDS: Facts = _pairs(
    "moo: cow / cows / cattle; meow: cat / cats; woof: dog / dogs; oink: pig / pigs; quack: duck / ducks; "
    "baa: sheep / lamb / lambs; neigh: horse / horses; ribbit: frog / frogs; cluck: hen / hens / chicken / chickens; "
    "cock-a-doodle-doo: rooster / roosters / cockerel; hoot: owl / owls; buzz: bee / bees"
)

YOUNG: Facts = _pairs(
    "dog: puppy / pup; cat: kitten; cow: calf; horse: foal / colt / filly; sheep: lamb; pig: piglet; goat: kid; "
    "chicken: chick; duck: duckling; goose: gosling; lion: cub; bear: cub; deer: fawn; swan: cygnet; frog: tadpole; "
    "kangaroo: joey"
)

COLOURS: Facts = _pairs(
    "grass: green; snow: white; blood: red; coal: black; a ripe banana: yellow; the sky on a clear day: blue; "
    "an emerald: green; a ruby: red; a lemon: yellow; milk: white; chocolate: brown"
)

CONTINENTS: Facts = _pairs(
    "Kenya: Africa; Ghana: Africa; Nigeria: Africa; Morocco: Africa; Ethiopia: Africa; Zambia: Africa; "
    "France: Europe; Germany: Europe; Italy: Europe; Poland: Europe; Sweden: Europe; Japan: Asia; China: Asia; "
    "India: Asia; Thailand: Asia; Vietnam: Asia; Brazil: South America; Peru: South America; "
    "Argentina: South America; Bolivia: South America; Canada: North America"
)
OTHER_CONTINENTS = ("Australia", "Oceania", "Antarctica", "North America", "South America", "Africa", "Asia", "Europe")

COUNTS: Mapping[str, int] = {
    "days are in a week": 7,
    "months are in a year": 12,
    "hours are in a day": 24,
    "minutes are in an hour": 60,
    "seconds are in a minute": 60,
    "years are in a century": 100,
    "years are in a decade": 10,
    "days are in a leap year": 366,
    "days are in April": 30,
    "days are in January": 31,
    "sides does a triangle have": 3,
    "sides does a square have": 4,
    "sides does a pentagon have": 5,
    "sides does a hexagon have": 6,
    "sides does an octagon have": 8,
    "faces does a cube have": 6,
    "corners does a cube have": 8,
    "legs does a spider have": 8,
    "legs does an insect have": 6,
    "legs does a dog have": 4,
    "arms does an octopus have": 8,
    "wheels does a bicycle have": 2,
    "wheels does a tricycle have": 3,
    "strings does a violin have": 4,
    "keys does a full-size piano have": 88,
    "squares does a chess board have": 64,
    "letters are in the English alphabet": 26,
    "eggs are in a dozen eggs": 12,
    "centimetres are in a metre": 100,
    "metres are in a kilometre": 1000,
    "grams are in a kilogram": 1000,
    "millimetres are in a centimetre": 10,
    "zeros does the number one million have": 6,
}
