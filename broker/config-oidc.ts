/** The identity provider whose tokens are taken beside keys, from the environment. */
export type OidcConfig =
  | { readonly enabled: false }
  | {
      readonly enabled: true;
      /** As the provider writes it in its tokens. */
      readonly issuer: string;
      readonly audience: string;
      /** Where a token names the role: a claim, or a path of claims by dots. */
      readonly roleClaim: string;
    };

export const OIDC_VARIABLES = ['DOWNLINK_OIDC_ISSUER', 'DOWNLINK_OIDC_AUDIENCE', 'DOWNLINK_OIDC_ROLE_CLAIM'] as const;
type OidcVariable = (typeof OIDC_VARIABLES)[number];

const ROLE_CLAIM_DEFAULT = 'role';
const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/;

/** `fail` throws with the line that it is given. */
export function readOidc(read: (name: OidcVariable) => string | undefined, fail: (line: string) => never): OidcConfig {
  const issuer = read('DOWNLINK_OIDC_ISSUER');
  const audience = read('DOWNLINK_OIDC_AUDIENCE');
  const roleClaim = read('DOWNLINK_OIDC_ROLE_CLAIM');
  if (issuer === undefined) {
    const stray = OIDC_VARIABLES.find((name) => read(name) !== undefined);
    return stray === undefined
      ? { enabled: false }
      : fail(`${stray} is set but DOWNLINK_OIDC_ISSUER is not; set it too, or unset ${stray}`);
  }
  if (!isIssuer(issuer)) {
    return fail(
      `DOWNLINK_OIDC_ISSUER is an https URL such as https://id.example.com/realm (http on loopback alone), not "${issuer}"`,
    );
  }
  if (audience === undefined) {
    return fail(
      'DOWNLINK_OIDC_AUDIENCE is not set; it is the audience of tokens that are meant for Downlink, such as its client id',
    );
  }
  if (roleClaim !== undefined && !/^[^\s.]+(\.[^\s.]+)*$/.test(roleClaim)) {
    return fail(`DOWNLINK_OIDC_ROLE_CLAIM is a claim such as role, or a path such as realm_access.roles, not "${roleClaim}"`);
  }
  return { enabled: true, issuer, audience, roleClaim: roleClaim ?? ROLE_CLAIM_DEFAULT };
}

function isIssuer(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, hostname, search, hash, username } = new URL(text);
  if (search !== '' || hash !== '' || username !== '') return false;
  return protocol === 'https:' || (protocol === 'http:' && LOOPBACK.test(hostname));
}
