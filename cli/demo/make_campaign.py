"""Makes campaign.ndjson: the soft bounces that `redeliver demo` posts, one JSON object per line.

Run it as `python3 make_campaign.py > campaign.ndjson`. The output is the same, byte for byte, on
every Python from 3.9 on. All random numbers come from `random.Random.random()`, because this is the
only method whose sequence Python promises not to change. Every name, address and wording is
invented. All domains are reserved for examples (RFC 2606).
"""

import base64
import json
import random
import sys
from datetime import datetime, timedelta, timezone

SEED = 421
OPENING = datetime(2026, 11, 2, 9, 0, tzinfo=timezone.utc)
SPAN_MS = 10 * 60 * 1000
# How many addresses have 2, 3 and 4 messages waiting. All other addresses have one.
ADDRESSES_WITH = {2: 68, 3: 69, 4: 68}
REPLAYS = 30

# Replies. {to} is the recipient, {host} the server that answered, {id} that server's queue id. A
# line break within a reply stands for CRLF.

FULL = """
452 4.3.1 Insufficient system storage
452 4.3.1 {host}: no space left for new mail, please keep it for a while
452-4.3.1 Our mail store has run full.
452 4.3.1 We are adding disks; the message was not taken.

452 4.3.1 <{to}>: the mail system is full
451 4.3.1 Mail system full, message not queued ({id})
452 {host} cannot store your message: mail system full (#4.3.1)
452 4.3.1 Unzureichender Speicherplatz im Mailsystem
452 4.3.1 Der Mailspeicher ist voll, die Nachricht für {to} wurde nicht angenommen
452 Kein Platz mehr auf dem Mailserver {host} - 4.3.1
452 4.3.1 Espace de stockage insuffisant sur le système de messagerie
452-4.3.1 Le système de messagerie est saturé
452 4.3.1 Votre message n'a pas été accepté, merci de le conserver
452 4.3.1 Espacio insuficiente en el sistema de correo
452 4.3.1 El almacén de correo de {host} está lleno
452 4.3.1 Armazenamento insuficiente no sistema de correio
451 4.3.1 Sistema de correio cheio, mensagem {id} não aceita
452 4.3.1 Spazio di archiviazione del sistema esaurito
452 4.3.1 メールシステムの空き容量が不足しています
452 4.3.1 邮件系统存储空间不足，暂时无法接收
452 4.3.1 Недостаточно места в почтовой системе
452 4.3.1 Za mało miejsca w systemie pocztowym
452 4.3.1 Onvoldoende opslagruimte op het mailsysteem
"""

CLOSED = """
451 4.3.2 System not accepting network messages
451 4.3.2 {host} is closed for maintenance
451-4.3.2 Scheduled maintenance of our mail platform.
451-4.3.2 No mail is lost: your server keeps it meanwhile.
451 4.3.2 Please come back when we are done.

421 4.3.2 {host} Service shutting down, closing channel
450 4.3.2 Mail service is being moved to new machines, not accepting mail [{id}]
451 Temporarily closed to network mail; system status 4.3.2
421 {host} is going down for an upgrade (4.3.2)
451 4.3.2 Wartungsarbeiten, der Server nimmt zurzeit keine Nachrichten an
421 4.3.2 {host}: Mailsystem wegen Wartung außer Betrieb
451 4.3.2 Maintenance en cours, le système n'accepte pas de messages
451-4.3.2 Notre plateforme est fermée pour travaux
451 4.3.2 Veuillez conserver le message et réessayer plus tard
451 4.3.2 El sistema no acepta mensajes de la red por mantenimiento
451 4.3.2 Servidor en mantenimiento, correo para {to} no aceptado
451 4.3.2 O sistema não está aceitando mensagens: manutenção programada
451 4.3.2 Sistema in manutenzione, al momento non accettiamo messaggi
451 4.3.2 メンテナンス中のため現在メールを受け付けていません
451 4.3.2 系统维护中，暂不接收网络邮件
451 4.3.2 Ведутся технические работы, приём почты приостановлен
421 4.3.2 Przerwa techniczna, {host} nie przyjmuje wiadomości
451 4.3.2 Wegens onderhoud neemt het systeem nu geen berichten aan
"""

DISABLED = """
450 4.2.1 Mailbox disabled, not accepting messages
450 4.2.1 <{to}>: mailbox is disabled
450 4.2.1 The user you are trying to reach has had their mailbox switched off ({id})
450-4.2.1 This mailbox has not been used for a long time
450 4.2.1 and is disabled until its owner signs in again.

451 4.2.1 Account {to} suspended, mail refused for now
450 Recipient's account is inactive (4.2.1)
450 {host} says: mailbox locked by its administrator; 4.2.1
450 4.2.1 Postfach deaktiviert, Nachrichten werden nicht angenommen
450 4.2.1 Das Postfach {to} ist vorübergehend gesperrt
450 4.2.1 Boîte aux lettres désactivée, elle n'accepte pas de messages
450-4.2.1 Le compte de ce destinataire est suspendu
450 4.2.1 Il sera rouvert à la demande de son titulaire
450 4.2.1 Buzón deshabilitado, no acepta mensajes
451 4.2.1 La cuenta <{to}> está suspendida
450 4.2.1 Caixa de correio desativada, mensagens não aceitas
450 4.2.1 Casella disabilitata, non accetta messaggi
450 4.2.1 メールボックスは無効になっています
450 4.2.1 该邮箱已被停用，无法接收邮件
450 4.2.1 Почтовый ящик отключён и не принимает сообщения
450 4.2.1 Skrzynka pocztowa wyłączona, nie przyjmuje wiadomości
450 4.2.1 Postvak uitgeschakeld, er worden geen berichten aangenomen
"""

MOVED = """
450 4.2.0 <{to}>: Recipient address could not be checked
450 4.2.0 Mailbox status uncertain, directory is being rebuilt
450 4.2.0 Empfängerstatus derzeit nicht feststellbar
450 4.1.1 <{to}>: user lookup gave no answer that we trust
450 4.1.1 Unverified address: no such user in the replica asked ({id})
450 4.1.1 Destinataire inconnu pour le moment, annuaire incomplet
451 4.1.1 Usuario no encontrado por ahora, se está migrando el directorio
450 4.1.1 宛先を現在確認できません
450 4.2.1 Mailbox disabled, its owner is moving
450-4.2.1 Casella chiusa per trasferimento
450 4.2.1 del titolare
450 4.1.4 Ambiguous destination mailbox, two directories disagree
"""

HEALTHY = """
421 4.4.2 {host} Connection timed out waiting for the message
421 4.4.2 Verbindung zu {host} unterbrochen
451 4.4.2 Соединение разорвано, повторите попытку
421 4.4.2 Connessione interrotta prima della fine dei dati
421 {host} Service not available, closing transmission channel
421 Too many connections to {host}, closing
421 Dienst zurzeit nicht verfügbar
421 Serviço indisponível, encerrando a ligação
451 4.3.0 Temporary lookup failure
451-4.3.0 Internal error in message processing
451 4.3.0 Reference {id}
451 4.3.0 Erreur temporaire du système de messagerie
451 4.3.0 メールシステムで一時的な障害が発生しました
452 4.2.2 Mailbox full
452 4.2.2 <{to}>: over quota, nothing more fits in
452-4.2.2 The mailbox of the person you write to has reached its limit.
452 4.2.2 They have been told. {id}
452 4.2.2 Das Postfach ist voll
452 4.2.2 Boîte aux lettres pleine
450 El buzón de {to} está lleno (4.2.2)
452 4.2.2 邮箱已满
450 4.2.2 Skrzynka odbiorcy jest przepełniona
450 4.7.1 Greylisted, please try again in 300 seconds
451 4.7.1 <{to}>: Greylisting in action, come back in 10 minutes
450 4.7.1 Unbekannter Absender, Greylisting aktiv: bitte in 5 Minuten erneut versuchen
451 4.7.1 Liste grise : veuillez réessayer plus tard
450 4.7.1 Lista gris activa, reintente dentro de 600 segundos
451 4.4.1 {host}: no answer from the mail store
451 4.4.1 Connection to the inner server timed out ({id})
451 4.4.1 Geen antwoord van de achterliggende server
450 Requested mail action not taken: mailbox unavailable
450 Postfach momentan nicht erreichbar
450 <{to}>: busy with another delivery
451 Requested action aborted: local error in processing
451 Error local, el mensaje no se ha procesado
451 処理中にエラーが発生しました
"""


def replies(text):
    """Returns the replies of a table above.

    A reply is one line, or several: all but its last have a `-` after the code.
    """
    found, lines = [], []
    for line in filter(None, text.splitlines()):
        lines.append(line)
        if line[3] == " ":
            found.append("\r\n".join(lines))
            lines = []
    return found


# route, domain, addresses, replies of their first failure
SERVERS = [
    ("full", "full.example", 640, replies(FULL)),
    ("maintenance", "maintenance.example", 512, replies(CLOSED)),
    ("silent", "gone.example", 256, replies(CLOSED)),
    ("disabled", "disabled.example", 640, replies(DISABLED)),
    ("unknown", "moved.example", 128, replies(MOVED)),
    ("healthy", "healthy.example", 384, replies(HEALTHY)),
]

# Addresses and messages

FIRST = """ada alma anouk arne bela bruno carla chiara daan dario edda elif emil enzo fenna finn gaia greta hanna hugo
ida ilse ines ivo jana joao jules kaja karim lara leif lena luca mara mats mira nadia nico nils nora oona oskar pavel
pia rafa rika rosa sami selma sven tamar teo tilda uma vera vito wanda xenia yara yuki zeno zora""".split()
LAST_HEAD = """alder amber bram cedar cobalt copper dune ember fern flint frost hazel heron larch linden marsh moss oak
quartz reed rowan sable slate tarn thorn velvet willow""".split()
LAST_TAIL = """acre bank beck brook combe croft dale fell field gate holm hurst ley mere mont shore stow thwaite vale
wick""".split()
TAGS = "news shop offers mail letters orders club".split()
INTERNATIONAL = """jürgen zoë søren františek małgorzata rené íñigo joão włodek åsa märta andré ógún þóra đorđe ştefan
花子 太郎 美咲 小雨 晓明 春华 андрей людмила ярослав ελένη νίκος""".split()
ROLES = "info office sales kontakt accueil ventas compras redazione biuro inkoop team".split()

GREETINGS = [
    ("The November letter is here", "Hello,\nthe new issue is out. Have a good read."),
    ("Your order is on its way", "Thank you for your order.\n...it left our house this morning."),
    ("Neues aus der Werkstatt", "Guten Tag,\ndie Novemberausgabe ist da. Viel Freude beim Lesen!"),
    ("Votre lettre de novembre", "Bonjour,\nla nouvelle lettre est arrivée. Bonne lecture !"),
    ("Las noticias de noviembre", "Hola:\nya está aquí el número de noviembre."),
    ("As novidades de novembro", "Olá,\na edição de novembro já chegou."),
    ("Le novità di novembre", "Buongiorno,\nil nuovo numero è pronto."),
    ("11月号のお知らせ", "こんにちは。\n11月号ができました。"),
    ("十一月通讯", "您好，\n十一月的通讯已经发布。"),
    ("Ноябрьский выпуск", "Здравствуйте!\nВышел ноябрьский выпуск."),
    ("Listopadowe nowości", "Dzień dobry,\nnowy numer jest już gotowy."),
    ("Het nieuws van november", "Goedendag,\n.het nieuwe nummer staat klaar."),
]
OTHER_CAMPAIGNS = ["c39", "c40", "c41", "c43"]

chance = random.Random(SEED).random


def below(bound):
    return int(chance() * bound)


def pick(options):
    return options[below(len(options))]


def shuffled(items):
    numbered = ((chance(), item) for item in items)
    return [item for _, item in sorted(numbered, key=lambda pair: pair[0])]


def local_part():
    first, last = pick(FIRST), pick(LAST_HEAD) + pick(LAST_TAIL)
    kind = below(100)
    if kind < 48:
        return f"{first}.{last}"
    if kind < 60:
        return f"{first[0]}.{last}"
    if kind < 68:
        return f"{first}_{last}"
    if kind < 78:
        return f"{first}{last}{60 + below(40)}"
    if kind < 88:
        return f"{first}.{last}+{pick(TAGS)}"
    if kind < 90:
        return f"{first.title()}.{last.title()}"
    if kind < 93:
        return f"{pick(ROLES)}-{last}"
    if kind < 98:
        return f"{pick(INTERNATIONAL)}.{last}"
    return pick(
        [
            f'"{first} {last}"',
            f'"{first}..{last}"',
            f'"{first}@{last}"',
            f'"{first} \\"{last}\\""',
        ]
    )


def addresses():
    """Returns every address of the campaign with its mail server.

    No two addresses are the same, even if case is ignored.
    """
    seen, made = set(), []
    for route, domain, count, wordings in SERVERS:
        target = len(made) + count
        while len(made) < target:
            recipient = f"{local_part()}@{domain}"
            if recipient.casefold() not in seen:
                seen.add(recipient.casefold())
                made.append((recipient, route, domain, wordings))
    return made


def reply_for(recipient, domain, wordings):
    queue_id = "".join(pick("BCDFGHJKLMNPQRSTVWXZ") for _ in range(10))
    return pick(wordings).format(to=recipient, host=f"mx{1 + below(4)}.{domain}", id=queue_id)


def bounces():
    """Returns all bounced messages, still without ids.

    There is one for each address, and several for an address whose later messages join its job.
    """
    made = addresses()
    extras = [n - 1 for n, count in ADDRESSES_WITH.items() for _ in range(count)]
    waiting = shuffled(extras + [0] * (len(made) - len(extras)))
    for (recipient, route, domain, wordings), extra in zip(made, waiting):
        account = "acme" if chance() < 0.8 else "default"
        first = "c42" if chance() < 0.85 else "r07"
        greeting = pick(GREETINGS)
        for campaign in [first] + shuffled(OTHER_CAMPAIGNS)[:extra]:
            yield {
                "recipient": recipient,
                "reply": reply_for(recipient, domain, wordings),
                "message_id": None,
                "occurred_at": below(SPAN_MS),
                "account": account,
                "stream": "receipts" if campaign.startswith("r") else "newsletter",
                "route": route,
                "envelope_from": "bounce@news.example.org",
                "content": {"inline": greeting},
                "metadata": {"campaign": campaign},
            }


def encoded_word(text):
    if text.isascii():
        return text
    return f"=?UTF-8?B?{base64.b64encode(text.encode()).decode()}?="


def message(bounce, sent):
    subject, body = bounce["content"]["inline"]
    lines = [
        f"From: Example News <{bounce['stream']}@news.example.org>",
        f"To: {bounce['recipient']}",
        f"Subject: {encoded_word(subject)}",
        f"Date: {sent:%a, %d %b %Y %H:%M:%S} +0000",
        f"Message-ID: {bounce['message_id']}",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "",
        *body.split("\n"),
        "",
    ]
    return "\r\n".join(lines)


def finished(in_order):
    """Gives each bounce its message id, time and content.

    Yields for each bounce the time when it arrives (in ms), and its line.
    """
    numbers = {}
    for bounce in in_order:
        campaign, offset_ms = bounce["metadata"]["campaign"], bounce["occurred_at"]
        numbers[campaign] = numbers.get(campaign, 0) + 1
        occurred = OPENING + timedelta(milliseconds=offset_ms)
        bounce["message_id"] = f"<{campaign}.{numbers[campaign]:04}@news.example.org>"
        bounce["occurred_at"] = occurred.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        bounce["content"]["inline"] = message(bounce, occurred - timedelta(seconds=1 + below(60)))
        yield offset_ms, json.dumps(bounce, ensure_ascii=False, separators=(",", ":"))


def main():
    lines = list(finished(sorted(bounces(), key=lambda bounce: bounce["occurred_at"])))
    # A replay is the same webhook, posted again 30 seconds to three minutes later.
    replays = [
        (arrived_ms + 30_000 + below(150_000), line)
        for arrived_ms, line in shuffled(lines)[:REPLAYS]
    ]
    for _, line in sorted(lines + replays, key=lambda pair: pair[0]):
        sys.stdout.buffer.write(line.encode() + b"\n")


if __name__ == "__main__":
    main()
