// node v03.mjs URL TURNS: plays the story with the JavaScript SDK of A2A 0.3, which finds its card below /v0.3/.
import { ClientFactory } from "a2a-js-03/client";
import { play } from "./story.mjs";

const client = await new ClientFactory().createFromUrl(new URL("v0.3/", process.argv[2]).href);
const card = await client.getAgentCard();

function params({ parts, ...message }) {
  return { message: { ...message, kind: "message", role: "user", parts: parts.map((text) => ({ kind: "text", text })) } };
}

const whole = (task) => ({ artifacts: [], history: [], ...task });

await play({
  card: { name: card.name, skill: card.skills[0].id, streaming: card.capabilities.streaming },
  send: async (message) => whole(await client.sendMessage(params(message))),
  stream: (message) => client.sendMessageStream(params(message)),
  get: async (id, historyLength) => whole(await client.getTask({ id, historyLength })),
  cancel: async (id) => whole(await client.cancelTask({ id })),
});
