// Ask whose token it is.
import { args, hub, hubUrl, report } from "./hub.mjs";

report({ name: (await hub.whoAmI({ accessToken: args[0], hubUrl })).name });
